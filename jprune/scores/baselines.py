"""The baselines that every criterion must beat: chance, and depth alone."""

import numpy as np

from jprune.llama.model import Llama
from jprune.scores.result import Scores, rank
from jprune.scores.units import is_present, present, units


def random(
    llama: Llama, ids=None, *, granularity: str = "block", protect=(), seed: int = 0
) -> Scores:
    """A uniform random number per unit, from `seed`; no data is read."""
    found = units(llama, granularity)
    drawn = np.random.default_rng(seed).random(len(found))
    return _baseline("random", llama, granularity, protect, drawn, {"seed": seed})


def last(llama: Llama, ids=None, *, granularity: str = "block", protect=()) -> Scores:
    """Minus the depth, so that the deepest unit goes first, but the final block goes last."""
    found = units(llama, granularity)
    final = llama.num_layers - 1
    depth = [1.0 if unit.layer == final else -float(at) for at, unit in enumerate(found)]
    return _baseline("last", llama, granularity, protect, depth, {})


def _baseline(name, llama, granularity, protect, values, settings) -> Scores:
    found = units(llama, granularity)
    there = present(llama)
    scores = tuple(
        float(value) if is_present(unit, there) else None
        for unit, value in zip(found, values, strict=True)
    )
    return Scores(
        criterion=name,
        granularity=granularity,
        units=found,
        scores=scores,
        order=rank(found, scores, protect),
        protected=tuple(protect),
        settings=settings,
    )
