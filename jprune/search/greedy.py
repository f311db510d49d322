"""Greedy removal: unit by unit, each time the one whose removal hurts least.

Reference: Song et al., SLEB (arXiv 2402.09025), section 3.
"""

from collections.abc import Sequence

from jprune.core.errors import InputError
from jprune.scores.units import Unit
from jprune.search.candidates import Candidate
from jprune.search.samplers import Ask, Sampler
from jprune.search.settings import SearchSettings
from jprune.search.space import Space
from jprune.search.trials import Past


class Greedy(Sampler):
    """Rounds of one trial for each unit still there, added to those that are gone already.

    The best trial of a round, by its mean ratio to the base, is what the next one begins with. Only
    the trials of the last round are candidates of the space; it ends when they do. Kept layers are
    the base's own.
    """

    def __init__(self, space: Space, settings: SearchSettings, warm: int = 0):
        """See `Sampler`. Raises InputError if `settings.trials` do not suffice."""
        super().__init__(space, settings, warm)
        if not space.remove:
            raise InputError("greedy removes units, but this search removes none; use tpe")
        needed = greedy_trials(space) + warm
        if settings.trials < needed:
            raise InputError(
                f"greedy needs {needed} trials to remove {space.remove} of {len(space.units)} "
                f"units, and there are {settings.trials}; give more, or use evolution"
            )
        self.most = needed

    def ready(self, past: Sequence[Past]) -> str:
        """Whether a unit of the round is untried; the next round begins when this one has ended."""
        if len([trial for trial in past if trial.slot is not None]) < self.warm:
            return "go"
        chosen, untried, running = self._round(past)
        if len(chosen) == self.space.remove:
            return "end"
        return "go" if untried else "wait" if running else "end"

    def propose(self, ask: Ask) -> Candidate | None:
        """The next unit of the round; of several workers at once, each takes another one."""
        if ask.given is not None:
            return ask.given
        others = [past for past in ask.past if past.candidate is None]
        ahead = sum(past.number < ask.trial.number for past in others)
        _, untried, _ = self._round(ask.past)
        return untried[ahead] if ahead < len(untried) else None

    def rivals(self, past: Sequence[Past], slot: int, candidate: Candidate) -> list[Past]:
        """The trials of its round; of a warm start, warm starts."""
        if slot < self.warm:
            return [p for p in past if p.slot is not None and p.slot < self.warm]
        size = len(candidate.removed)
        return [p for p in self._own(past) if p.candidate and len(p.candidate.removed) == size]

    def _own(self, past: Sequence[Past]) -> list[Past]:
        return [p for p in past if p.candidate and p.slot is not None and p.slot >= self.warm]

    def _round(self, past: Sequence[Past]) -> tuple[tuple[Unit, ...], list[Candidate], bool]:
        """Of the current round: what is gone before it, what is untried, whether some run.

        Raises:
          InputError: no trial of a round succeeded.
        """
        trials = {p.candidate: p for p in self._own(past)}
        gone: tuple[Unit, ...] = ()
        while len(gone) < self.space.remove:
            left = [unit for unit in self.space.units if unit not in gone]
            candidates = [Candidate((*gone, unit)) for unit in left]
            tried = [trials[candidate] for candidate in candidates if candidate in trials]
            untried = [candidate for candidate in candidates if candidate not in trials]
            running = any(not trial.is_finished for trial in tried)
            if untried or running:
                return gone, untried, running
            complete = [trial for trial in tried if trial.state == "complete"]
            if not complete:
                raise InputError(
                    f"every way to remove {len(gone) + 1} units failed: {tried[-1].error}"
                )
            # They are in the order of depth: of equal ones the earlier unit goes.
            best = min(complete, key=lambda trial: trial.reached[-1].score)
            assert best.candidate is not None
            gone = best.candidate.removed
        return gone, [], False


def greedy_trials(space: Space) -> int:
    """How many trials greedy removal takes: n + (n - 1) + ... over `remove` rounds of n units."""
    return sum(len(space.units) - done for done in range(space.remove))
