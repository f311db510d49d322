"""Evolution over subsets: offspring of the best candidate, screened on little data.

Reference: Sieberling et al., EvoPress (arXiv 2410.14649), section 3: (1 + lambda) evolution whose
mutations keep the total, with selection in steps on more and more data. There all offspring of a
generation take each step together. Here each is a trial of its own, so that workers need not wait
for each other: it goes on to the next rung if it is in the better 1/eta of those of its generation
and the one before that came to the rung before it. About lambda / eta do, as if all were compared.
"""

from collections.abc import Sequence

from jprune.search.candidates import Candidate
from jprune.search.offspring import unseen, unseen_offspring
from jprune.search.samplers import Ask, Sampler
from jprune.search.trials import Past


class Evolution(Sampler):
    """(1 + lambda) evolution; lambda is `settings.population`.

    Slots after the warm starts are generations of lambda. The parent of one is the best trial, by
    its mean ratio to the base, among all that are complete and have earlier slots than it; the
    first generation is random if there is none.
    """

    def propose(self, ask: Ask) -> Candidate:
        """An offspring that was not there before, if one is found."""
        if ask.given is not None:
            return ask.given
        rng = self.rng(ask.slot)
        parent = self._parent(ask)
        seen = {past.candidate for past in ask.past}
        if parent is not None:
            return unseen_offspring(self.space, parent, seen, rng)
        return unseen(lambda: self.space.random(rng), seen)

    def rivals(self, past: Sequence[Past], slot: int, candidate: Candidate) -> list[Past]:
        """The trials of its generation and the one before; of a warm start, warm starts."""
        if slot < self.warm:
            return [p for p in past if p.slot is not None and p.slot < self.warm]
        first = self._start(slot) - self.settings.population
        return [p for p in past if p.slot is not None and p.slot >= first]

    def _start(self, slot: int) -> int:
        """The first slot of a generation."""
        return slot - (slot - self.warm) % self.settings.population

    def _parent(self, ask: Ask) -> Candidate | None:
        start = self._start(ask.slot)
        elders = [
            past
            for past in ask.past
            if past.state == "complete" and past.slot is not None and past.slot < start
        ]
        best = min(elders, key=lambda past: (past.reached[-1].score, past.slot), default=None)
        return best.candidate if best else None
