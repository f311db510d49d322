"""N:M per block: the total is that of one pattern, each block as near to its density as it can."""

import itertools

import numpy as np
import pytest

from jprune.allocate import layerwise_patterns
from jprune.core.errors import InputError
from jprune.scores.masks import Pattern


def counts(density, sizes, pattern):
    found = layerwise_patterns(np.array(density), np.array(sizes), pattern)
    assert {one.of for one in found} == {pattern.of}
    return [one.keep for one in found]


def test_equal_densities_are_the_pattern_itself():
    assert counts([0.5] * 5, [7] * 5, Pattern(2, 4)) == [2] * 5
    assert counts([0.75, 0.75], [3, 5], Pattern(3, 4)) == [3, 3]


def test_the_largest_remainders_are_rounded_up():
    # of 8: 5.6, 4.4, 3.6, 2.4; two more than the whole parts, 14, make 16.
    assert counts([0.7, 0.55, 0.45, 0.3], [10] * 4, Pattern(4, 8)) == [6, 4, 4, 2]


def test_among_equal_remainders_the_earlier_block_is_rounded_up():
    assert counts([0.625, 0.375, 0.625, 0.375], [10] * 4, Pattern(2, 4)) == [3, 2, 2, 1]


@pytest.mark.parametrize("seed", range(6))
def test_the_total_is_met_where_blocks_are_equally_large(seed):
    rng = np.random.default_rng(seed)
    of, blocks = int(rng.integers(4, 17)), int(rng.integers(2, 9))
    keep = int(rng.integers(1, of))
    room = min(keep / of, 1 - keep / of)
    density = rng.uniform(-room, room, blocks)
    density = keep / of + (density - density.mean()) / 2
    found = counts(density, [12] * blocks, Pattern(keep, of))
    assert sum(found) == keep * blocks
    assert all(1 <= n <= of for n in found)


def test_of_all_that_meet_the_total_none_is_nearer():
    density = np.array([0.62, 0.5, 0.48, 0.4])
    found = counts(density, [5] * 4, Pattern(4, 8))
    options = [c for c in itertools.product(range(1, 9), repeat=4) if sum(c) == 16]
    distance = [np.abs(np.array(c) / 8 - density).sum() for c in options]
    assert np.abs(np.array(found) / 8 - density).sum() == pytest.approx(min(distance))


def test_unequal_blocks_keep_no_more_than_the_total():
    sizes = np.array([10, 30, 20])
    density = np.array([0.7, 0.45, 0.475])
    found = np.array(counts(density, sizes, Pattern(2, 4)))
    assert (found * sizes).sum() <= 2 * sizes.sum()
    room = 2 * sizes.sum() - (found * sizes).sum()
    assert room < sizes.min()  # no block could keep one more


def test_every_block_keeps_one_of_m():
    # 0.2, 0.2 and 5.6 of 8: the first two keep 1 all the same, and the last gives.
    assert counts([0.025, 0.025, 0.7], [10] * 3, Pattern(2, 8)) == [1, 1, 4]


def test_densities_of_another_total():
    with pytest.raises(InputError, match=r"keep 0.7 of the weights, pattern 2:4 keeps 0.5; give"):
        layerwise_patterns(np.array([0.7, 0.7]), np.array([1, 1]), Pattern(2, 4))
