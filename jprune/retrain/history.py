"""The losses of a run as JSON lines, cut back to the checkpoint that a run resumes from."""

import json
import math
from typing import Any

import numpy as np
from jaxtyping import Float

from jprune.core.errors import JpruneError
from jprune.core.files import PathLike, as_path, read_bytes, write_text
from jprune.retrain.step import Metrics


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

    def __init__(self, history: History, rates: Float[np.ndarray, " steps"]):
        """Logs to `history` the metrics and the learning rates `rates` of steps 1, 2, ..."""
        self.history = history
        self.rates = rates
        self._waiting: tuple[int, Metrics] | None = None

    def add(self, step: int, metrics: Metrics) -> None:
        """Takes the metrics of a step just dispatched and logs those of the one before."""
        self.settle()
        self._waiting = step, metrics

    def settle(self) -> None:
        """Logs what still waits: nothing of a step may be saved before.

        Raises:
          JpruneError: the loss of that step is not finite.
        """
        if self._waiting is None:
            return
        step, metrics = self._waiting
        self._waiting = None
        row = {"step": step, "learning_rate": float(self.rates[step - 1])}
        row |= {name: float(value) for name, value in metrics._asdict().items()}
        self.history.append(row)
        if not math.isfinite(row["loss"]):
            raise JpruneError(f"the loss is not finite at step {step}: lower the learning rate")


def read_history(path: PathLike) -> list[dict[str, Any]]:
    """The lines of a history file, oldest first; empty where there is none."""
    path = as_path(path)
    if not path.exists():
        return []
    return [json.loads(line) for line in read_bytes(path).decode().splitlines()]
