"""Runs a study: proposes candidates, evaluates them rung by rung, and tells the storage.

Any number of processes may run the same study on one storage; together they make as many trials as
the settings say. A process that is killed loses the trial it was at, whose place another one takes.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jprune.core.errors import InputError
from jprune.core.processes import on_writer, together
from jprune.core.progress import progress
from jprune.search.candidates import Candidate
from jprune.search.objectives import (
    Objective,
    Sums,
    check_base,
    check_objectives,
    check_values,
)
from jprune.search.result import SearchResult, summarise
from jprune.search.rungs import Rungs
from jprune.search.samplers import make_sampler
from jprune.search.settings import SearchSettings
from jprune.search.space import Space
from jprune.search.storage import open_storage
from jprune.search.trials import Trials
from jprune.search.turns import Turns
from jprune.search.workers import worker

Evaluate = Callable[[Candidate, str, Int[np.ndarray, " items"]], Float[np.ndarray, " items"]]


class EvaluationError(InputError):
    """An evaluation raised; its error is the cause."""


def run_study(
    space: Space,
    objectives: Sequence[Objective],
    evaluate: Evaluate,
    settings: SearchSettings | None = None,
    storage: Any = None,
    *,
    name: str = "search",
    warm_starts: Sequence[Candidate] = (),
    base: Mapping[str, Float[np.ndarray, " _"]] | None = None,
    identity: Mapping[str, Any] | None = None,
) -> SearchResult:
    """The best candidate that a search of `settings.trials` trials finds.

    A trial evaluates a candidate on a part of the items, then, if it is among the better ones
    there, on more, up to all; see `jprune.search.rungs`. Only those evaluated on all are complete
    and can be the best. A candidate that was there before is not evaluated again: its values are
    taken over. Whatever ended is in the storage, and running the same study again goes on from it.
    Several processes of one JAX program are one worker.

    Args:
      space: what is searched.
      objectives: what candidates should be good at; with several, there is a Pareto front.
      evaluate: of a candidate, the name of an objective and the indices of some of its items, gives
        a number for each item. It is called with the base too, `Candidate()`.
      settings: how the search goes.
      storage: where the study is kept, see `open_storage`; by default in memory.
      name: of the study in the storage.
      warm_starts: candidates to begin with.
      base: the base's numbers for all items of each objective, by default evaluated.
      identity: JSON that tells the models and data from others, so that no other study is resumed.

    Raises:
      InputError: arguments that do not fit; a study of this name that searches something else; no
        candidate was evaluated on everything. As soon as `settings.give_up_after` trials have
        failed and none has succeeded, the error of the last one is raised.
    """
    settings = settings or SearchSettings()
    objectives = tuple(objectives)
    check_objectives(objectives)
    for candidate in warm_starts:
        space.check(candidate)
    rungs = Rungs.of(objectives, settings.rungs, settings.seed)
    key = _key(space, objectives, settings, warm_starts, identity)
    turns: Any = None

    with contextlib.ExitStack() as stack:

        def begin() -> None:
            nonlocal turns
            trials = Trials(open_storage(storage), name, objectives, key)
            sampler = make_sampler(space, settings, len(warm_starts), trials)
            signature = stack.enter_context(worker())
            made = Turns(trials, sampler, objectives, settings, warm_starts, signature)
            turns = stack.enter_context(made)

        on_writer(begin)
        if not on_writer(lambda: turns.has_base()):
            found = _base(objectives, rungs, evaluate, base)
            on_writer(lambda: turns.set_base(found))
        total = on_writer(lambda: turns.left())
        for _ in progress(_run(turns, objectives, rungs, evaluate), "search", total, "trials"):
            pass
        told = on_writer(lambda: summarise(space, objectives, *turns.outcome()).to_json())
    return SearchResult.from_json(told)


def _run(
    turns: Any, objectives: Sequence[Objective], rungs: Rungs, evaluate: Evaluate
) -> Iterator[None]:
    """One step for each trial that this worker makes."""
    while (task := on_writer(lambda: turns.next())) is not None:
        if task["candidate"] is not None:
            _run_trial(Candidate.from_json(task["candidate"]), turns, objectives, rungs, evaluate)
        yield


def _run_trial(
    candidate: Candidate,
    turns: Any,
    objectives: Sequence[Objective],
    rungs: Rungs,
    evaluate: Evaluate,
) -> None:
    sums = Sums.none(objectives)
    for rung in range(len(rungs)):
        started = time.monotonic()
        try:
            new = _evaluate(candidate, objectives, rungs.new_items(rung), evaluate)
        except InputError as error:
            text, cause = str(error), error.__cause__ or error
            if on_writer(partial(_failed, turns, text)):
                raise cause from None
            return
        sums = sums.add(new)
        seconds = time.monotonic() - started
        if not on_writer(partial(_reached, turns, rung, sums, seconds)):
            return


# Only the writer has turns.
def _failed(turns: Any, error: str) -> bool:
    return turns.failed(error)


def _reached(turns: Any, rung: int, sums: Sums, seconds: float) -> bool:
    return turns.reached(rung, sums, seconds)


def _evaluate(
    candidate: Candidate,
    objectives: Sequence[Objective],
    items: Sequence[Int[np.ndarray, " _"]],
    evaluate: Evaluate,
) -> list[np.ndarray]:
    """The numbers of some items of every objective.

    Raises:
      EvaluationError: on all processes, if `evaluate` raised on one, or gave no such numbers.
    """

    def attempt() -> list[np.ndarray]:
        try:
            return [
                check_values(o, evaluate(candidate, o.name, own), len(own))
                if len(own)
                else np.zeros(0)
                for o, own in zip(objectives, items, strict=True)
            ]
        except InputError as error:
            raise EvaluationError(str(error)) from error
        except Exception as error:
            raise EvaluationError(f"{type(error).__name__}: {error}") from error

    return together(attempt)


def _base(
    objectives: Sequence[Objective],
    rungs: Rungs,
    evaluate: Evaluate,
    base: Mapping[str, Float[np.ndarray, " _"]] | None,
) -> list[list[float]]:
    """Of every rung, the base's value of every objective."""
    if base is None:
        everything = [np.arange(objective.num_items) for objective in objectives]
        try:
            values = _evaluate(Candidate(), objectives, everything, evaluate)
        except EvaluationError as error:
            raise (error.__cause__ or error) from None
    else:
        missing = [objective.name for objective in objectives if objective.name not in base]
        if missing:
            raise InputError(f"the base's values lack those of {', '.join(missing)}")
        values = [check_values(o, base[o.name], o.num_items) for o in objectives]
    found = [
        [float(own[items].mean()) for own, items in zip(values, rungs.items(rung), strict=True)]
        for rung in range(len(rungs))
    ]
    for row in found:
        check_base(objectives, row)
    return found


def _key(
    space: Space,
    objectives: Sequence[Objective],
    settings: SearchSettings,
    warm_starts: Sequence[Candidate],
    identity: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What may not change from one run of a study to the next; more trials may be asked for."""
    operational = ("trials", "stale_after", "give_up_after")
    kept = {key: x for key, x in settings.to_json().items() if key not in operational}
    return {
        "space": space.to_json(),
        "objectives": {o.name: [o.num_items, "max" if o.maximize else "min"] for o in objectives},
        "settings": kept,
        "warm_starts": [candidate.to_json() for candidate in warm_starts],
        "identity": dict(identity or {}),
    }
