"""A study of stitched models compiles for its first candidates, and for no other."""

import numpy as np

from jprune.evaluate import StitchedModels
from jprune.measure.compilations import compilations
from jprune.search import Objective, SearchSettings, StitchSpace, run_study, warm_starts
from tests.tiny import finetunes, tiny, windows


def test_no_program_after_the_first_candidates():
    base = tiny(5)
    models = StitchedModels(base, finetunes(base, "math", "code"))
    ids = {"one": windows(16, 24), "two": windows(12, 24, seed=1)}
    seen = []

    def evaluate(candidate, objective, items):
        before = compilations()
        plan = candidate.plan(5)
        nll = models.nll(plan, ids[objective][items])
        seen.append((candidate, objective, len(items), compilations() - before))
        return nll

    space = StitchSpace(5, 2, ("math", "code"))
    result = run_study(
        space,
        [Objective(name, len(x)) for name, x in ids.items()],
        evaluate,
        SearchSettings("evolution", trials=60, rungs=(0.25, 1.0)),
        warm_starts=warm_starts(space, windows=1)[:1],
    )
    assert result.counts()["complete"] >= 20
    # What there is to compile, for few windows and many, and for layers mixed and not, is there with
    # the base and the first two candidates; whatever follows is another mix of other layers.
    last = max(place for place, (*_, compiled) in enumerate(seen) if compiled)
    early, later = seen[: last + 1], seen[last + 1 :]
    assert len({candidate for candidate, *_ in early}) <= 3
    assert len({candidate for candidate, *_ in later}) > 30
    assert {len(candidate.removed) for candidate, *_ in later} == {2}
    assert len({mix.variants for candidate, *_ in later for mix in candidate.mixes}) == 3
    assert np.isfinite(result.incumbent.score)
