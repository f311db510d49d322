"""Candidates to begin a search with: what people would try by hand."""

import itertools
from collections.abc import Sequence
from functools import partial

import numpy as np

from jprune.core.errors import InputError
from jprune.scores.result import Scores
from jprune.scores.units import Unit
from jprune.search.candidates import Candidate
from jprune.search.space import Space, Subset, mix_of

DEFAULT_WINDOWS = 4
# Of the sum of all differences, beside the mean: plain merges that people try.
SUM_FACTORS = (0.5, 1.0)


def warm_starts(
    space: Space,
    scores: Scores | Sequence[float | None] | None = None,
    windows: int = DEFAULT_WINDOWS,
    variant_scores: Sequence[Scores | Sequence[float | None]] = (),
) -> tuple[Candidate, ...]:
    """First candidates of a search, each once, the most promising first.

    The units that go are those of lowest score, if there are scores; every other one from the last
    upwards; and contiguous windows, the deepest first. Each of these with the base's layers, with
    those of each single variant, and with all variants merged, the mean of their differences to the
    base added to it. Where there are scores, half and the whole of the sum are added too, and a
    variant with scores of its own also comes without the units of lowest score by them.

    Args:
      space: of the candidates.
      scores: of the units, lower is removed first: `Scores`, or one for each of `space.units`. None
        where undefined.
      windows: how many contiguous windows at most, spread evenly over the depth.
      variant_scores: of the units in each variant, in the order of `space.variants`; none, or for
        all of them.

    Raises:
      InputError: scores of other units.
    """
    removals = []
    if scores is not None:
        removals.append(_lowest(space, scores))
    removals.append(_alternating(space))
    removals += _windows(space, windows)
    subsets: list[Subset] = [subset for subset in space.subsets if len(subset) <= 1]
    if len(space.variants) > 1:
        subsets.append(space.subsets[-1])
    pairs: list[tuple[list[Unit], Subset]] = list(itertools.product(removals, subsets))
    found = [
        _uniform(space, _lowest(space, one), (number,)) for number, one in enumerate(variant_scores)
    ]
    found += itertools.starmap(partial(_uniform, space), pairs)
    if scores is not None and len(space.variants) > 1:
        found += [_uniform(space, removals[0], subsets[-1], factor) for factor in SUM_FACTORS]
    return tuple(dict.fromkeys(found))


def _uniform(
    space: Space, removed: Sequence[Unit], subset: Subset, factor: float | None = None
) -> Candidate:
    """The candidate without some units, all other layers made of one subset of the variants.

    The factor is by default that of the mean.
    """
    factor = factor or 1 / max(1, len(subset))
    mixes = (mix_of(layer, subset, factor) for layer in space.kept_layers(removed))
    return Candidate(tuple(removed), tuple(mix for mix in mixes if mix))


def _lowest(space: Space, scores: Scores | Sequence[float | None]) -> list[Unit]:
    """The units of lowest score, of equal ones the earlier; those without a score come last."""
    if isinstance(scores, Scores):
        known = dict(zip(scores.units, scores.scores, strict=True))
        missing = [unit for unit in space.units if unit not in known]
        if missing:
            raise InputError(
                f"there is no score of {missing[0]}: these scores are of granularity "
                f"{scores.granularity}"
            )
        scores = [known[unit] for unit in space.units]
    if len(scores) != len(space.units):
        raise InputError(
            f"{len(scores)} scores for {len(space.units)} units; give one for each unit that may go"
        )
    values = np.asarray([np.inf if value is None else value for value in scores], float)
    return [space.units[i] for i in np.argsort(values, kind="stable")[: space.remove]]


def _alternating(space: Space) -> list[Unit]:
    """Every other unit from the last upwards; where these do not suffice, the others likewise."""
    backwards = space.units[::-1]
    return [*backwards[::2], *backwards[1::2]][: space.remove]


def _windows(space: Space, most: int) -> list[list[Unit]]:
    """Runs of units without a layer in between, the deepest first, spread evenly."""
    units, size = space.units, space.remove
    if not size:
        return [[]]
    runs = [list(units[start : start + size]) for start in range(len(units) - size + 1)]
    runs = [
        run
        for run in runs
        if all(b.layer - a.layer <= 1 for a, b in zip(run, run[1:], strict=False))
    ]
    at = np.linspace(len(runs) - 1, 0, min(most, len(runs))).round().astype(int)
    return [runs[i] for i in at]
