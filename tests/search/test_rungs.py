"""Rungs: nested and shuffled items, and who goes on."""

import numpy as np
import pytest

from jprune.search import Objective, Rungs
from jprune.search.rungs import goes_on

OBJECTIVES = [Objective("code", 64), Objective("math", 20)]


def test_rungs_are_nested_shuffled_and_end_with_everything():
    rungs = Rungs.of(OBJECTIVES, (1 / 8, 1 / 2, 1), seed=3)
    assert rungs.sizes == ((8, 3), (32, 10), (64, 20))
    for column, objective in enumerate(OBJECTIVES):
        so_far: set[int] = set()
        for rung in range(len(rungs)):
            new = rungs.new_items(rung)[column].tolist()
            assert new == sorted(new) and so_far.isdisjoint(new)
            so_far |= {*new}
            assert rungs.items(rung)[column].tolist() == sorted(so_far)
            size = rungs.sizes[rung][column]
            assert len(so_far) == size
            if rung < 2:
                assert so_far != {*range(size)}  # not the first ones
        assert so_far == {*range(objective.num_items)}


def test_items_are_spread_over_the_data():
    low = np.concatenate([Rungs.of(OBJECTIVES, (1 / 8, 1), seed).items(0)[0] for seed in range(50)])
    counts = np.bincount(low, minlength=64)
    assert counts.sum() == 400 and counts.max() < 20


def test_the_seed_decides_and_other_objectives_do_not():
    one = Rungs.of(OBJECTIVES, (1 / 8, 1), 0)
    assert one == Rungs.of(OBJECTIVES, (1 / 8, 1), 0)
    assert one.orders[1] == Rungs.of(OBJECTIVES[1:], (1 / 8, 1), 0).orders[0]
    assert one.orders[0] != Rungs.of(OBJECTIVES, (1 / 8, 1), 1).orders[0]
    same_size = [Objective("a", 64), Objective("b", 64)]
    orders = Rungs.of(same_size, (1,), 0).orders
    assert orders[0] != orders[1]


def test_few_items():
    rungs = Rungs.of([Objective("a", 1), Objective("b", 3)], (1 / 8, 1 / 4, 1 / 2, 1), 0)
    assert rungs.sizes == ((1, 1), (1, 2), (1, 3))
    assert [len(new) for new in rungs.new_items(1)] == [0, 1]
    assert len(Rungs.of([Objective("a", 1)], (1 / 8, 1), 0)) == 1


@pytest.mark.parametrize(
    ("score", "earlier", "eta", "expected"),
    [
        (9.0, [], 2, True),  # the first
        (1.0, [2.0], 3, True),  # the best of fewer than eta
        (3.0, [2.0], 3, False),
        (2.0, [2.0], 2, False),  # of equal ones the earlier
        (2.5, [1.0, 2.0, 3.0], 2, False),  # the third of four; two go on
        (1.5, [1.0, 2.0, 3.0], 2, True),
        (2.5, [1.0, 2.0, 3.0, 4.0, 5.0], 3, False),  # the third of six; two go on
        (1.5, [1.0, 2.0, 3.0, 4.0, 5.0], 3, True),
        (9.0, [1.0, 2.0, 3.0], 1, True),
    ],
)
def test_the_better_ones_go_on(score, earlier, eta, expected):
    assert goes_on(score, earlier, eta) is expected
