"""The trials of a study as its storage has them: what is read of them, and what is written.

A trial has the attributes `signature` (its worker), `beat` (signs of life), `slot` and `candidate`,
`rung 0`, `rung 1`, ... (values, score, items, seconds), and where they apply `copy of`, `error` and
`lost`. A trial counts unless it was lost with its worker or given up.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from jprune.core.errors import InputError
from jprune.search.candidates import Candidate
from jprune.search.objectives import Objective
from jprune.search.storage import import_optuna

T = TypeVar("T")

_KEY, _BASE = "search", "base"
_ATTEMPTS, _PAUSE = 5, 1.0  # of writing to a database that is busy; seconds between two


class TrialTaken(Exception):
    """Somebody took this worker for dead and ended its trial, which no longer counts."""


@dataclasses.dataclass(frozen=True)
class Reached:
    """What a trial had at a rung.

    Attributes:
      values: of the objectives, means over the rung's items.
      score: mean ratio to the base on the same items.
      items: how many, for every objective.
      seconds: that the items new at this rung took.
    """

    values: tuple[float, ...]
    score: float
    items: tuple[int, ...]
    seconds: float


@dataclasses.dataclass(frozen=True)
class Past:
    """A trial at some moment.

    Attributes:
      number: Optuna's, unique in the study.
      id: Optuna's, unique in the storage.
      state: running; complete: evaluated on everything; pruned: ended at a lower rung; failed: its
        evaluation raised; lost: ended without result, as if it had never been.
      slot: its place in the order of proposals; None until it is known.
      candidate: None until it is known.
      reached: of every rung that it came to.
      signature: of its worker.
      beat: signs of life so far.
      copy_of: the number of the trial of the same candidate that it has its values from.
      error: of a failed trial.
      lost: why a trial is lost.
      ended: when, in seconds since 1970.
    """

    number: int
    id: int
    state: str
    slot: int | None
    candidate: Candidate | None
    reached: tuple[Reached, ...]
    signature: Mapping[str, Any]
    beat: int
    copy_of: int | None = None
    error: str | None = None
    lost: str | None = None
    ended: float | None = None

    @property
    def counts(self) -> bool:
        """Whether it takes one of the study's trials."""
        return self.state != "lost"

    @property
    def is_finished(self) -> bool:
        """Whether it counts and has ended."""
        return self.state in ("complete", "pruned", "failed")

    @property
    def sign(self) -> Any:
        """Changes as long as its worker is alive."""
        return self.beat, self.slot, len(self.reached)


class Trials:
    """The trials of one study.

    Args:
      storage: as `open_storage` gives it.
      name: of the study, made if it is not there.
      objectives: of the study.
      key: what the study searches, and how; JSON.

    Raises:
      InputError: the study is there, but searches something else.
    """

    def __init__(
        self, storage: Any, name: str, objectives: Sequence[Objective], key: Mapping[str, Any]
    ):
        self.optuna = import_optuna()
        self.storage, self.name = storage, name
        self._ended: dict[int, Past] = {}
        directions = ["maximize" if o.maximize else "minimize" for o in objectives]
        sampler = self.optuna.samplers.RandomSampler()
        self._study = self.optuna.create_study(
            storage=storage,
            study_name=name,
            directions=directions,
            sampler=sampler,
            load_if_exists=True,
        )
        self._id = storage.get_study_id_from_name(name)
        known = self._study.user_attrs.get(_KEY)
        if known is None:
            if self.past():
                raise InputError(
                    f"the storage has a study {name!r} that is no search of jprune; give another "
                    "name or storage"
                )
            self._set_study(_KEY, key)
        elif known != key:
            raise InputError(
                f"the study {name!r} in this storage is another search: {_difference(known, key)}; "
                "give another name or storage"
            )

    def past(self) -> list[Past]:
        """All trials, by their numbers."""
        states = self.optuna.trial.TrialState
        trials = self._patiently(lambda: self._study.get_trials(deepcopy=False))
        for trial in trials:
            if trial.state.is_finished() and trial.number not in self._ended:
                self._ended[trial.number] = _past(trial, states)
        return [self._ended.get(trial.number) or _past(trial, states) for trial in trials]

    def base(self) -> list[list[float]] | None:
        """What `set_base` stored: of every rung, the base's values."""
        return self._study.user_attrs.get(_BASE)

    def set_base(self, values: Sequence[Sequence[float]]) -> None:
        """Stores the base's values of every rung."""
        self._set_study(_BASE, [list(row) for row in values])

    def create(self, signature: Mapping[str, Any]) -> Past:
        """A new running trial, signed from its first moment on."""
        state = self.optuna.trial.TrialState.RUNNING
        template = self.optuna.trial.create_trial(
            state=state, user_attrs={"signature": dict(signature)}
        )
        trial_id = self.storage.create_new_trial(self._id, template_trial=template)
        number = self.storage.get_trial(trial_id).number
        return Past(number, trial_id, "running", None, None, (), signature, 0)

    def set(self, trial: Past, name: str, value: Any) -> None:
        """Sets an attribute of a running trial. Raises TrialTaken if it is not running any more."""
        self._write(lambda: self.storage.set_trial_user_attr(trial.id, name, value))

    def report(self, trial: Past, rung: int, reached: Reached) -> None:
        """Stores what a trial has at a rung. Raises TrialTaken."""
        self.set(trial, f"rung {rung}", dataclasses.asdict(reached))
        if len(reached.values) == 1:
            # TPE learns from those that end early too; with several objectives it cannot.
            step, value = rung, reached.values[0]
            self._write(lambda: self.storage.set_trial_intermediate_value(trial.id, step, value))

    def complete(self, trial: Past, values: Sequence[float]) -> None:
        """Ends a trial that was evaluated on everything. Raises TrialTaken."""
        self._tell(trial, "COMPLETE", [float(value) for value in values])

    def prune(self, trial: Past) -> None:
        """Ends a trial at a lower rung. Raises TrialTaken."""
        self._tell(trial, "PRUNED")

    def fail(self, trial: Past, error: str) -> None:
        """Ends a trial whose evaluation raised. Raises TrialTaken."""
        self.set(trial, "error", error)
        self._tell(trial, "FAIL")

    def lose(self, trial: Past, why: str) -> None:
        """Ends a trial as if it had never been. Raises TrialTaken."""
        self.set(trial, "lost", why)
        self._tell(trial, "FAIL")

    def _tell(self, trial: Past, state: str, values: list[float] | None = None) -> None:
        name = self.optuna.trial.TrialState[state]
        self._write(lambda: self._study.tell(trial.number, values, state=name))

    def _write(self, write: Callable[[], Any]) -> None:
        try:
            self._patiently(write)
        except self.optuna.exceptions.UpdateFinishedTrialError:
            raise TrialTaken from None
        except ValueError as error:
            if "Cannot tell a" not in str(error):
                raise
            raise TrialTaken from None

    def _set_study(self, name: str, value: Any) -> None:
        self._patiently(lambda: self._study.set_user_attr(name, value))

    def _patiently(self, function: Callable[[], T]) -> T:
        """What a database says, which may be busy with other workers."""
        for _ in range(_ATTEMPTS - 1):
            try:
                return function()
            except self.optuna.exceptions.StorageInternalError:
                time.sleep(_PAUSE)
        return function()


def _past(trial: Any, states: Any) -> Past:
    attrs = trial.user_attrs
    reached: list[Reached] = []
    while (row := attrs.get(f"rung {len(reached)}")) is not None:
        values, items = tuple(row["values"]), tuple(row["items"])
        reached.append(Reached(values, row["score"], items, row["seconds"]))
    candidate = attrs.get("candidate")
    failed = "lost" if "lost" in attrs or "error" not in attrs else "failed"
    names = {
        states.COMPLETE: "complete",
        states.PRUNED: "pruned",
        states.FAIL: failed,
        states.WAITING: "lost",  # somebody else's
    }
    return Past(
        number=trial.number,
        id=trial._trial_id,
        state=names.get(trial.state, "running"),
        slot=attrs.get("slot"),
        candidate=None if candidate is None else Candidate.from_json(candidate),
        reached=tuple(reached),
        signature=attrs.get("signature", {}),
        beat=attrs.get("beat", 0),
        copy_of=attrs.get("copy of"),
        error=attrs.get("error"),
        lost=attrs.get("lost"),
        ended=trial.datetime_complete.timestamp() if trial.datetime_complete else None,
    )


def _difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """The first entry in which two searches differ, in words."""
    for name in dict.fromkeys([*new, *old]):
        was, now = old.get(name), new.get(name)
        if isinstance(was, Mapping) and isinstance(now, Mapping) and was != now:
            return f"{name}: {_difference(was, now)}"
        if was != now:
            return f"{name} was {_short(was)}, is {_short(now)}"
    return "it was written otherwise"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
