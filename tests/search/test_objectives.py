"""Objectives: means over items, and how they compare to the base."""

import numpy as np
import pytest

from jprune.core.errors import InputError
from jprune.search import Objective
from jprune.search.objectives import (
    Sums,
    check_base,
    check_objectives,
    check_values,
    ratios,
    score,
)

NLL, ACCURACY = Objective("code", 10), Objective("piqa", 8, maximize=True)


def test_means_over_items_that_come_bit_by_bit():
    sums = Sums.none([NLL, ACCURACY])
    sums = sums.add([np.array([1.0, 2.0]), np.array([1.0])])
    sums = sums.add([np.array([6.0]), np.array([0.0, 0.0, 0.0])])
    assert sums.means == (3.0, 0.25)
    assert sums.counts == (3, 4)
    assert sums.add([np.zeros(0), np.zeros(0)]) == sums


def test_ratios_to_the_base():
    assert NLL.ratio(3.0, 2.0) == 1.5
    assert ACCURACY.ratio(0.5, 0.75) == 1.5
    found = ratios([NLL, ACCURACY], [3.0, 0.25], [2.0, 0.5])
    assert found == (1.5, 2.0)
    assert score(found) == 1.75


def test_no_right_answer_counts_as_half_a_one():
    assert ACCURACY.ratio(0.0, 0.5) == 0.5 / (0.5 / 8)
    assert ACCURACY.ratio(0.0, 0.5, count=2) == 0.5 / (0.5 / 2)
    assert ACCURACY.ratio(0.0, 0.0) == 1.0


def test_values_of_any_kind_of_number():
    for values in ([1, 0, 1], np.array([True, False, True]), np.float32([1, 0, 1])):
        found = check_values(ACCURACY, values, 3)
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, [1, 0, 1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Objective("", 3), "an objective needs a name"),
        (lambda: Objective("code", 0), "the objective code has no items; it needs at least one"),
        (lambda: check_objectives([]), "at least one objective"),
        (lambda: check_objectives([NLL, Objective("code", 3)]), "code, code name one twice"),
        (lambda: check_values(NLL, np.zeros((2, 1)), 2), "2 items of code gave an array of shape"),
        (lambda: check_values(NLL, np.zeros(3), 2), "shape \\[3\\], not one number per item"),
        (
            lambda: check_values(NLL, [1.0, np.nan, np.inf], 3),
            "2 of 3 items of code are not finite",
        ),
        (
            lambda: check_base([ACCURACY, NLL], [0.0, 0.0]),
            "an NLL of 0 on code; it must be above 0",
        ),
    ],
)
def test_errors(make, message):
    with pytest.raises(InputError, match=message):
        make()
