"""Neighbours of a candidate in its space.

Reference: Sieberling et al., EvoPress (arXiv 2410.14649), section 3: mutations that keep the total.
"""

from collections.abc import Callable, Collection

import numpy as np

from jprune.search.candidates import Candidate, Mix
from jprune.search.space import Space, mix_of

MOST_CHANGES = 3
_FACTOR_SPREAD = 0.15  # standard deviation of a change of a factor
_ATTEMPTS = 100  # to find a candidate that was not there before


def unseen(draw: Callable[[], Candidate], seen: Collection[Candidate | None]) -> Candidate:
    """The first that is drawn and was not there before; after many attempts one that was."""
    for _ in range(_ATTEMPTS):
        candidate = draw()
        if candidate not in seen:
            break
    return candidate


def unseen_offspring(
    space: Space,
    parent: Candidate,
    seen: Collection[Candidate | None],
    rng: np.random.Generator,
) -> Candidate:
    """`offspring` that was not there before, if one is found."""
    return unseen(lambda: offspring(space, parent, rng), seen)


def offspring(space: Space, parent: Candidate, rng: np.random.Generator) -> Candidate:
    """`parent` with one to three changes, fewer more often.

    A change swaps a removed with a kept unit, or gives a kept layer another mix: another subset of
    the variants, or another factor. As many units are gone as before.
    """
    kinds = []
    if 0 < space.remove < len(space.units):
        kinds.append(_swap)
    if space.variants:
        kinds.append(_change_mix)
    child = parent
    if kinds:
        for _ in range(rng.integers(1, MOST_CHANGES + 1, 2).min()):
            child = kinds[rng.integers(len(kinds))](space, child, rng)
    return child


def _swap(space: Space, parent: Candidate, rng: np.random.Generator) -> Candidate:
    """A removed unit comes back, its layer with a random mix if it was gone; a kept one goes."""
    comes = parent.removed[rng.integers(len(parent.removed))]
    kept = [unit for unit in space.units if unit not in parent.removed]
    goes = kept[rng.integers(len(kept))]
    removed = tuple(unit for unit in parent.removed if unit != comes) + (goes,)
    layers = space.kept_layers(removed)
    mixes: list[Mix | None] = [mix for mix in parent.mixes if mix.layer in layers]
    if space.variants:
        mixes.append(space.random_mix(comes.layer, rng))
    return Candidate(removed, tuple(mix for mix in mixes if mix))


def _change_mix(space: Space, parent: Candidate, rng: np.random.Generator) -> Candidate:
    """Another mix of a kept layer; where variants are merged, every other time another factor."""
    layers = space.kept_layers(parent.removed)
    layer = layers[rng.integers(len(layers))]
    mixes = {mix.layer: mix for mix in parent.mixes}
    old = mixes.pop(layer, None)
    new: Mix | None
    if old is not None and old.factor is not None and rng.random() < 0.5:
        factor = np.clip(old.factor + rng.normal(0.0, _FACTOR_SPREAD), 0.0, 1.0)
        new = mix_of(layer, old.variants, float(factor))
    else:
        others = [s for s in space.subsets if s != (old.variants if old else ())]
        new = mix_of(layer, others[rng.integers(len(others))], rng.uniform())
    return Candidate(parent.removed, (*mixes.values(), *([new] if new else [])))
