"""What a search found: the best candidate, the trials, and how the best became better."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jprune.core.errors import InputError
from jprune.search.candidates import Candidate
from jprune.search.objectives import Objective, ratios
from jprune.search.space import Space
from jprune.search.trials import Past


@dataclasses.dataclass(frozen=True)
class TrialRow:
    """A trial in the history of a search.

    Attributes:
      number: unique in the study.
      state: complete: evaluated on everything; pruned: ended at a lower rung; failed: its
        evaluation raised; lost: ended without a result, which does not count; running.
      rung: how many rungs it came to.
      values: of the objectives at the last of them; None if it came to none.
      ratios: of these values to the base's on the same items.
      score: the mean of the ratios.
      seconds: that its evaluation took.
      worker: host and process that ran it.
      candidate: what it was.
      copy_of: the trial of the same candidate that its values are from; it was not run again.
      error: of a failed trial, or why it was lost.
      in_space: it is a candidate of the space; greedy removal also tries smaller removals.
    """

    number: int
    state: str
    rung: int
    values: tuple[float, ...] | None
    ratios: tuple[float, ...] | None
    score: float | None
    seconds: float
    worker: str
    candidate: Candidate | None
    copy_of: int | None = None
    error: str | None = None
    in_space: bool = True

    @property
    def is_eligible(self) -> bool:
        """Whether it may be the best."""
        return self.state == "complete" and self.in_space

    def to_json(self) -> dict[str, Any]:
        """The row as results write it."""
        row = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        candidate = None if self.candidate is None else self.candidate.to_json()
        lists = {key: list(x) if isinstance(x, tuple) else x for key, x in row.items()}
        return lists | {"candidate": candidate}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "TrialRow":
        """The row of what `to_json` gave."""
        row = {key: tuple(x) if isinstance(x, list) else x for key, x in data.items()}
        found = data["candidate"]
        return TrialRow(**row | {"candidate": found and Candidate.from_json(found)})


@dataclasses.dataclass(frozen=True)
class SearchResult:
    """The result of a search.

    Attributes:
      objectives: what was searched for.
      base: the base's value of each.
      incumbent: the best trial: with one objective the lowest value (of a metric the highest); with
        several that of the front with the lowest mean ratio to the base. Of equal ones the first.
      front: trials that no other is better than in one objective and as good in all.
      history: all trials that had a candidate, by their numbers.
      curve: after each trial, in the order in which they ended, the best so far: `trials`, `number`
        of the best, its `score` and `values`; those None before there is one.
    """

    objectives: tuple[Objective, ...]
    base: tuple[float, ...]
    incumbent: TrialRow
    front: tuple[TrialRow, ...]
    history: tuple[TrialRow, ...]
    curve: tuple[dict[str, Any], ...]

    @property
    def candidate(self) -> Candidate:
        """That of the incumbent."""
        assert self.incumbent.candidate is not None
        return self.incumbent.candidate

    def counts(self) -> dict[str, int]:
        """How many trials there are in each state."""
        states = [row.state for row in self.history]
        return {state: states.count(state) for state in sorted(set(states))}

    def to_json(self) -> dict[str, Any]:
        """All of it in JSON."""
        return {
            "objectives": [dataclasses.asdict(objective) for objective in self.objectives],
            "base": list(self.base),
            "incumbent": self.incumbent.to_json(),
            "front": [row.to_json() for row in self.front],
            "history": [row.to_json() for row in self.history],
            "curve": [dict(point) for point in self.curve],
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "SearchResult":
        """The result of what `to_json` gave.

        Raises:
          InputError: it is none.
        """
        try:
            return SearchResult(
                objectives=tuple(Objective(**objective) for objective in data["objectives"]),
                base=tuple(data["base"]),
                incumbent=TrialRow.from_json(data["incumbent"]),
                front=tuple(TrialRow.from_json(row) for row in data["front"]),
                history=tuple(TrialRow.from_json(row) for row in data["history"]),
                curve=tuple(dict(point) for point in data["curve"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise InputError(f"this is no result of a search ({error!r})") from None


def summarise(
    space: Space,
    objectives: Sequence[Objective],
    base: Sequence[Sequence[float]],
    past: Sequence[Past],
) -> SearchResult:
    """The result of the trials of a study.

    Args:
      space: which of them are candidates.
      objectives: of the study.
      base: of every rung, the base's values.
      past: all trials.

    Raises:
      InputError: none was evaluated on everything.
    """
    trials = [trial for trial in past if trial.candidate is not None]
    history = [_row(space, objectives, base, trial) for trial in trials]
    eligible = [row for row in history if row.is_eligible]
    if not eligible:
        errors = [trial.error for trial in trials if trial.error]
        reason = f"; the last error: {errors[-1]}" if errors else ""
        raise InputError(f"none of {len(trials)} trials was evaluated on everything{reason}")
    front = pareto_front(objectives, eligible)
    rows = {row.number: row for row in history}
    ended = sorted((trial.ended or 0.0, trial.number) for trial in trials if trial.is_finished)
    return SearchResult(
        objectives=tuple(objectives),
        base=tuple(base[-1]),
        incumbent=best_of(front),
        front=tuple(front),
        history=tuple(history),
        curve=tuple(_curve([rows[number] for _, number in ended])),
    )


def pareto_front(objectives: Sequence[Objective], rows: Sequence[TrialRow]) -> list[TrialRow]:
    """The rows that no other dominates: is as good in all objectives and better in one.

    Of rows with the same values only the first is there.
    """
    signs = [-1.0 if objective.maximize else 1.0 for objective in objectives]
    losses: dict[tuple[float, ...], TrialRow] = {}
    for row in rows:
        key = tuple(sign * value for sign, value in zip(signs, row.values or (), strict=True))
        losses.setdefault(key, row)
    return [
        row
        for own, row in losses.items()
        if not any(
            other != own and all(x <= y for x, y in zip(other, own, strict=True))
            for other in losses
        )
    ]


def best_of(rows: Sequence[TrialRow]) -> TrialRow:
    """The row with the lowest score; of equal ones the one with the lowest number."""
    return min(rows, key=lambda row: (row.score, row.number))


def _curve(rows: Sequence[TrialRow]) -> list[dict[str, Any]]:
    points = []
    best: TrialRow | None = None
    for count, row in enumerate(rows, start=1):
        if row.is_eligible:
            best = row if best is None else best_of([best, row])
        points.append(
            {
                "trials": count,
                "number": best.number if best else None,
                "score": best.score if best else None,
                "values": list(best.values or ()) if best else None,
            }
        )
    return points


def _row(
    space: Space,
    objectives: Sequence[Objective],
    base: Sequence[Sequence[float]],
    trial: Past,
) -> TrialRow:
    rung = len(trial.reached)
    last = trial.reached[-1] if rung else None
    candidate = trial.candidate
    return TrialRow(
        number=trial.number,
        state=trial.state,
        rung=rung,
        values=last.values if last else None,
        ratios=ratios(objectives, last.values, base[rung - 1], last.items) if last else None,
        score=last.score if last else None,
        seconds=float(sum(reached.seconds for reached in trial.reached)),
        worker=f"{trial.signature.get('host', '?')}:{trial.signature.get('pid', '?')}",
        candidate=candidate,
        copy_of=trial.copy_of,
        error=trial.error or trial.lost,
        in_space=candidate is not None and len(candidate.removed) == space.remove,
    )
