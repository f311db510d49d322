"""The figures of a run as JSON lines, cut back to the checkpoint that a run resumes from."""

import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float

from jprune.core.errors import JpruneError
from jprune.core.files import PathLike, as_path, read_bytes, write_text
from jprune.retrain.speed import Speed
from jprune.retrain.step import Metrics


class NotFinite(JpruneError):
    """A loss or a parameter is infinite or not a number."""


class History:
    """One JSON object a line, each with a `step`.

    Lines reach the file in `flush`, which replaces it as a whole: it is called before every
    checkpoint, so the file always covers what the last checkpoint covers, without torn lines.
    """

    def __init__(self, path: PathLike | None, step: int):
        """Takes up the file at `path` and drops what came after `step`, to be computed again.

        Without a path the lines are only kept in memory.
        """
        self.path = path
        before = [] if path is None else read_history(path)
        self.rows = [row for row in before if row["step"] <= step]

    def append(self, row: dict[str, Any]) -> None:
        """Adds a line."""
        self.rows.append(row)

    def flush(self) -> None:
        """Writes all lines so far."""
        if self.path is None:
            return
        write_text(self.path, "".join(json.dumps(row) + "\n" for row in self.rows))


class StepLog:
    """Puts the metrics of steps in a history, each once the step after it has been dispatched.

    Reading a metric waits for its step. One step later the device has the next one to do
    meanwhile, and the host prepares the batch of the one after.
    """

    def __init__(
        self,
        history: History,
        rates: Float[np.ndarray, " steps"],
        timed: History,
        speed: Speed,
        show: Callable[[dict[str, Any]], None] = lambda row: None,
    ):
        """Logs the metrics and the learning rates of steps 1, 2, ...

        Args:
          history: takes what a repeated run would give again.
          rates: the learning rates.
          timed: takes the same and how fast it went.
          speed: of steps.
          show: is given every line of `timed`.
        """
        self.history, self.rates, self.timed, self.speed = history, rates, timed, speed
        self.show = show
        self._waiting: tuple[int, Metrics, tuple[float, int, int]] | None = None

    def add(self, step: int, metrics: Metrics, begun: float, windows: int, length: int) -> None:
        """Takes the metrics of a step just dispatched and logs those of the one before.

        Args:
          step: its number, from 1 on.
          metrics: what `train_step` gave.
          begun: when the host began with it, by the clock of `speed`.
          windows: in the step.
          length: of its windows.
        """
        self.settle()
        self._waiting = step, metrics, (begun, windows, length)

    def validated(self, step: int, nll: float) -> None:
        """Logs a validation."""
        row = {"step": step, "validation_nll": nll}
        self.history.append(row)
        self._timed(row)

    def settle(self) -> None:
        """Logs what still waits: nothing of a step may be saved before.

        Raises:
          NotFinite: the loss of that step is not finite.
        """
        if self._waiting is None:
            return
        step, metrics, work = self._waiting
        self._waiting = None
        row = {"step": step, "learning_rate": float(self.rates[step - 1])}
        row |= {name: float(value) for name, value in metrics._asdict().items()}
        self.history.append(row)
        self._timed(row | self.speed.step(*work))
        if not math.isfinite(row["loss"]):
            raise NotFinite(f"the loss is not finite at step {step}")

    def _timed(self, row: dict[str, Any]) -> None:
        self.timed.append(row)
        self.show(row)


def summary(row: dict[str, Any]) -> str:
    """A step in a few words, for a line of progress; empty for a validation."""
    if "loss" not in row:
        return ""
    mfu = "" if row.get("mfu") is None else f", MFU {row['mfu']:.1%}"
    return f"loss {row['loss']:.4f}, {row['tokens_per_second']:.4g} tokens/s{mfu}"


def open_history(folder: PathLike | None, name: str, step: int) -> History:
    """The history of that name in a folder, cut back to `step`; in memory without a folder."""
    return History(folder and as_path(folder) / name, step)


def read_history(path: PathLike) -> list[dict[str, Any]]:
    """The lines of a history file, oldest first; empty where there is none."""
    path = as_path(path)
    if not path.exists():
        return []
    return [json.loads(line) for line in read_bytes(path).decode().splitlines()]
