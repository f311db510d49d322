"""The turns of one worker in a study that others may share: which trial is next, and how it ends.

Trials are numbered by the storage. A worker makes one first and then looks: if so many with lower
numbers count as there are to be, it gives its own up. Of lower numbers only ever fewer count, when
trials are lost; so that there are never too many, and no lock is needed. The place that a lost
trial leaves is taken by the next.
"""

import contextlib
import dataclasses
import itertools
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from jprune.core.progress import log
from jprune.search.candidates import Candidate
from jprune.search.objectives import Objective, Sums, ratios, score
from jprune.search.rungs import goes_on
from jprune.search.samplers import Ask, Sampler
from jprune.search.settings import SearchSettings
from jprune.search.trials import Past, Reached, Trials, TrialTaken
from jprune.search.workers import Watch, beating

_PAUSE = 0.2  # seconds between two looks at what others do


class Turns:
    """One worker at a study; a context: what is not finished when it ends is given up.

    Args:
      trials: of the study.
      sampler: proposes candidates.
      objectives: of the study.
      settings: of the search.
      warm_starts: what the first slots are.
      signature: of the worker.
    """

    def __init__(
        self,
        trials: Trials,
        sampler: Sampler,
        objectives: Sequence[Objective],
        settings: SearchSettings,
        warm_starts: Sequence[Candidate],
        signature: Mapping[str, Any],
    ):
        self._trials, self._sampler, self._objectives = trials, sampler, objectives
        self._settings, self._warm, self._signature = settings, warm_starts, signature
        self._watch = Watch(settings.stale_after)
        self._trial: Past | None = None
        self._best = float("inf")
        self._base = trials.base()
        self._beating = beating(self._beat)

    def __enter__(self) -> "Turns":
        self._beating.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._beating.__exit__(None, None, None)
        if self._trial is not None:
            try:
                self._lose(f"stopped by {type(error).__name__}")
            except Exception as problem:  # the storage may be what went wrong
                log.warning("a trial was left behind: %s", problem)

    def has_base(self) -> bool:
        """Whether the base's values are known."""
        return self._base is not None

    def set_base(self, values: list[list[float]]) -> None:
        """Stores the base's values of every rung."""
        self._trials.set_base(values)
        self._base = self._trials.base()

    def left(self) -> int:
        """How many trials are to be made."""
        done = sum(past.is_finished for past in self._trials.past())
        if done:
            log.info("search: %d of %d trials are there", done, self._sampler.most)
        return max(0, self._sampler.most - done)

    def outcome(self) -> tuple[list[list[float]], list[Past]]:
        """The base's values of every rung, and all trials."""
        assert self._base is not None
        return self._base, self._trials.past()

    def next(self) -> dict[str, Any] | None:
        """The next trial of this worker, once there is one; None when the search is over.

        Its "candidate" is None if it has ended already: as a copy of an earlier one.
        """
        while True:
            past = [trial for trial in self._look() if trial.counts]
            if sum(trial.is_finished for trial in past) >= self._sampler.most:
                return None
            full = len(past) >= self._sampler.most
            ready = "wait" if full else self._sampler.ready(past)
            if ready == "end":
                return None
            if ready == "wait":
                time.sleep(_PAUSE)
                continue
            try:
                candidate = self._begin()
                if candidate is None:
                    self._lose("surplus")
                    time.sleep(_PAUSE)
                    continue
                copied = self._copy(candidate)
            except TrialTaken:
                self._taken()
                continue
            return {"candidate": None if copied else candidate.to_json()}

    def reached(self, rung: int, sums: Sums, seconds: float) -> bool:
        """Tells what the trial has at a rung; whether it goes on to the next."""
        trial, values = self._running(), sums.means
        assert self._base is not None and trial.slot is not None and trial.candidate is not None
        found = ratios(self._objectives, values, self._base[rung], sums.counts)
        now = Reached(values, score(found), sums.counts, seconds)
        try:
            self._trials.report(trial, rung, now)
            if rung == len(self._base) - 1:
                self._trials.complete(trial, values)
                self._note(trial, now)
            else:
                rivals = self._sampler.rivals(self._others(trial), trial.slot, trial.candidate)
                scores = [
                    rival.reached[rung].score
                    for rival in rivals
                    if len(rival.reached) > rung and rival.copy_of is None
                ]
                if goes_on(now.score, scores, self._settings.eta):
                    return True
                self._trials.prune(trial)
        except TrialTaken:
            self._taken()
        self._trial = None
        return False

    def failed(self, error: str) -> bool:
        """Tells that the evaluation raised; whether to give up, since nothing ever succeeded."""
        log.warning("trial %d failed: %s", self._running().number, error)
        try:
            self._trials.fail(self._running(), error)
        except TrialTaken:
            self._taken()
        self._trial = None
        ended = [trial.state for trial in self._trials.past() if trial.is_finished]
        enough = min(self._settings.give_up_after, self._sampler.most)
        return len(ended) >= enough and set(ended) == {"failed"}

    def _begin(self) -> Candidate | None:
        """Makes a trial; its candidate, or None if it is one too many."""
        self._trial = trial = self._trials.create(self._signature)
        others = self._others(trial)
        if sum(other.number < trial.number for other in others) >= self._sampler.most:
            return None
        slot = free_slot(others, trial.number)
        given = self._warm[slot] if slot < len(self._warm) else None
        candidate = self._sampler.propose(Ask(trial, slot, others, given))
        if candidate is not None:
            self._trial = dataclasses.replace(trial, slot=slot, candidate=candidate)
            self._trials.set(trial, "slot", slot)
            self._trials.set(trial, "candidate", candidate.to_json())
        return candidate

    def _copy(self, candidate: Candidate) -> bool:
        """Ends the trial as a copy of one with the same candidate, if there is one.

        One with a lower number that is still running is waited for, evaluating the same would take
        longer; and one that has no candidate yet, which may be the same.
        """
        trial = self._running()
        while True:
            past = self._look()
            twins = [other for other in past if other.candidate == candidate]
            ended = [twin for twin in twins if twin.state in ("complete", "pruned")]
            if ended:
                self._take_over(trial, min(ended, key=lambda twin: (twin.state, twin.number)))
                return True
            if not any(
                other.state == "running"
                and other.number < trial.number
                and other.candidate in (candidate, None)
                for other in past
            ):
                return False
            time.sleep(_PAUSE)

    def _take_over(self, trial: Past, twin: Past) -> None:
        origin = twin.number if twin.copy_of is None else twin.copy_of
        self._trials.set(trial, "copy of", origin)
        for rung, reached in enumerate(twin.reached):
            self._trials.report(trial, rung, dataclasses.replace(reached, seconds=0.0))
        if twin.state == "complete":
            self._trials.complete(trial, twin.reached[-1].values)
        else:
            self._trials.prune(trial)
        self._trial = None

    def _look(self) -> list[Past]:
        """All trials; those whose workers are dead are told so."""
        past = self._trials.past()
        mine = None if self._trial is None else self._trial.number
        stale = [
            trial
            for trial in past
            if trial.state == "running"
            and trial.number != mine
            and self._watch.is_stale(trial.number, trial.signature, trial.sign)
        ]
        for trial in stale:
            try:
                self._trials.lose(trial, "its worker died")
                log.warning("the worker of trial %d died; another takes its place", trial.number)
            except TrialTaken:
                pass  # it has ended by itself, or another worker was faster
        return self._trials.past() if stale else past

    def _others(self, trial: Past) -> list[Past]:
        past = self._trials.past()
        return [other for other in past if other.counts and other.number != trial.number]

    def _running(self) -> Past:
        assert self._trial is not None
        return self._trial

    def _lose(self, why: str) -> None:
        trial, self._trial = self._running(), None
        with contextlib.suppress(TrialTaken):
            self._trials.lose(trial, why)

    def _taken(self) -> None:
        log.warning(
            "trial %d was ended by another worker, which saw no sign of life from this one",
            self._running().number,
        )
        self._trial = None

    def _note(self, trial: Past, now: Reached) -> None:
        if now.score < self._best:
            self._best = now.score
            values = (f"{x:.4f}" for x in now.values)
            named = zip((o.name for o in self._objectives), values, strict=True)
            text = ", ".join(f"{name} {value}" for name, value in named)
            log.info("trial %d: %s; %.4f of the base", trial.number, text, now.score)

    def _beat(self, count: int) -> None:
        trial = self._trial
        if trial is None:
            return
        try:
            self._trials.set(trial, "beat", count)
        except TrialTaken:
            pass  # whoever evaluates it will learn of it
        except Exception as problem:
            log.warning("no sign of life was given: %s", problem)


def free_slot(others: Sequence[Past], number: int) -> int:
    """The slot of a trial: the first that is free, once trials with lower numbers have theirs."""
    taken = {other.slot for other in others}
    ahead = sum(other.slot is None and other.number < number for other in others)
    free = (slot for slot in itertools.count() if slot not in taken)
    return next(itertools.islice(free, ahead, None))
