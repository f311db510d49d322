"""Exact selection against sorting."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jprune.scores.smallest import kth_smallest, smallest


def values(ties: bool, shape=(13, 7)):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 4, shape) if ties else rng.random(shape)
    return x.astype(np.float32)


def by_sorting(x, count):
    """The `count` smallest of a vector, earlier ones first among equals."""
    chosen = np.zeros(x.size, bool)
    chosen[np.argsort(x, kind="stable")[:count]] = True
    return chosen


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("count", [0, 1, 6, 12, 13])
def test_of_each_column(ties, count):
    x = values(ties)
    expected = np.stack([by_sorting(column, count) for column in x.T], axis=1)
    np.testing.assert_array_equal(smallest(x, count, axis=0), expected)


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("count", [0, 1, 40, 90, 91])
def test_of_the_whole_matrix(ties, count):
    """Equals go in the order of [out, in], which is that of the transposed matrix."""
    x = values(ties)
    expected = by_sorting(x.T.reshape(-1), count).reshape(7, 13).T
    np.testing.assert_array_equal(smallest(x, count), expected)


def test_extreme_numbers_have_their_order():
    x = np.array([[np.nan, np.inf, 3e38, 1.0, 1e-30, 1e-45, 0.0]], np.float32).T
    for count in range(8):
        assert np.asarray(smallest(x, count)).sum() == count
        assert smallest(x, count)[7 - count :].all()


def test_any_count_is_one_program():
    select = jax.jit(smallest)
    for count in (0, 5, 91):
        assert select(values(False), count).sum() == count
    assert select._cache_size() == 1


@pytest.mark.parametrize("k", [1, 2, 45, 46, 103])
def test_kth_of_several_arrays(k):
    arrays = [values(True), values(False, (3, 4))]
    everything = np.sort(np.concatenate([a.reshape(-1) for a in arrays]))
    assert kth_smallest([jnp.asarray(a) for a in arrays], k) == everything[k - 1]
