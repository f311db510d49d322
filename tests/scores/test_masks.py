"""Masks of single matrices, against their definitions written out."""

import numpy as np
import pytest

from jprune.core import InputError
from jprune.scores.masks import (
    Pattern,
    check_pattern,
    count_mask,
    magnitudes,
    metric,
    parse_pattern,
    pattern_mask,
    pruned_count,
)

RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(16, 6)).astype(np.float32)
SQUARES = RNG.random(16).astype(np.float32)


def test_the_metric():
    expected = np.abs(KERNEL) * np.sqrt(SQUARES)[:, None]
    np.testing.assert_allclose(metric(KERNEL, SQUARES), expected, rtol=1e-6)


def test_magnitude_takes_the_smallest_of_the_matrix():
    mask = np.asarray(count_mask(magnitudes(KERNEL), 40))
    assert (~mask).sum() == 40
    assert np.abs(KERNEL[~mask]).max() < np.abs(KERNEL[mask]).min()


def test_wanda_takes_the_smallest_of_each_output():
    mask = np.asarray(count_mask(metric(KERNEL, SQUARES), 11, axis=0))
    a = np.abs(KERNEL) * np.sqrt(SQUARES)[:, None]
    for column in range(6):
        gone = ~mask[:, column]
        assert gone.sum() == 11
        assert a[gone, column].max() < a[~gone, column].min()


@pytest.mark.parametrize(("keep", "of"), [(2, 4), (4, 8), (1, 4), (3, 4), (8, 8)])
def test_patterns_keep_the_largest_of_every_group(keep, of):
    mask = np.asarray(pattern_mask(np.abs(KERNEL), keep, of))
    for start in range(0, 16, of):
        for column in range(6):
            group = np.abs(KERNEL[start : start + of, column])
            largest = np.argsort(group)[of - keep :]
            np.testing.assert_array_equal(
                np.flatnonzero(mask[start : start + of, column]), np.sort(largest)
            )


def test_of_equals_in_a_group_the_earlier_goes():
    equal = np.ones((4, 1), np.float32)
    np.testing.assert_array_equal(pattern_mask(equal, 2, 4)[:, 0], [False, False, True, True])


@pytest.mark.parametrize(
    ("size", "sparsity", "expected"),
    [(10, 0.7, 7), (10, 1 - 0.3, 7), (3, 1 / 3, 1), (688, 0.7, 481), (5, 0.0, 0), (100, 0.99, 99)],
)
def test_counts_are_rounded_down(size, sparsity, expected):
    assert pruned_count(size, sparsity) == expected


def test_patterns_by_name():
    assert parse_pattern("2:4") == Pattern(2, 4)
    assert parse_pattern("unstructured") is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2-4", "unknown pattern '2-4'; give 'unstructured', or how many of how many"),
        ("5:4", "keeps 5 of 4; give N:M with N from 1 to M"),
        ("0:4", "keeps 0 of 4"),
    ],
)
def test_bad_patterns(text, message):
    with pytest.raises(InputError, match=message):
        parse_pattern(text)


def test_a_pattern_that_does_not_divide():
    check_pattern(Pattern(2, 4), 16, "w")
    with pytest.raises(InputError, match="pattern 2:4 does not divide the 18 inputs of w; give"):
        check_pattern(Pattern(2, 4), 18, "w")
