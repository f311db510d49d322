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
    # The base compiles what runs all windows, the first candidate what runs a part of them, the
    # first that mixes several variants what mixes; whatever follows is another mix of other layers.
    last = max(place for place, (*_, compiled) in enumerate(seen) if compiled)
    mixing = next(
        place
        for place, (candidate, *_) in enumerate(seen)
        if any(len(mix.variants) > 1 for mix in candidate.mixes)
    )
    assert last <= mixing and seen[mixing][3] <= 1
    later = seen[last + 1 :]
    assert len({candidate for candidate, *_ in later}) > 30
    assert {len(candidate.removed) for candidate, *_ in later} == {2}
    assert len({mix.variants for candidate, *_ in later for mix in candidate.mixes}) == 3
    assert np.isfinite(result.incumbent.score)
