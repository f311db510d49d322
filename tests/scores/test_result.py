"""Ranking, selection, and scores as files."""

import dataclasses
import json

import pytest

from jprune.core.errors import InputError
from jprune.scores import Scores, Unit, rank, select

UNITS = tuple(Unit(layer, "block") for layer in range(5))
SCORES = Scores("taylor", "block", UNITS, (3.0, 1.0, None, 1.0, 2.0), (1, 3, 4), (0,))


def test_rank_ascends_breaks_ties_early_and_leaves_out():
    assert rank(UNITS, SCORES.scores, (0,)) == (1, 3, 4)
    assert rank(UNITS, (5.0, 4.0, 3.0, 2.0, 1.0), ()) == (4, 3, 2, 1, 0)


def test_rank_refuses_what_is_no_number():
    with pytest.raises(InputError, match="score of block 1 is not a number.*--dtype=float32"):
        rank(UNITS, (1.0, float("nan"), 1.0, 1.0, 1.0), ())


def test_select_takes_the_least_important_in_order_of_depth():
    assert select(SCORES, 2) == (Unit(1, "block"), Unit(3, "block"))
    assert select(dataclasses.replace(SCORES, order=(4, 1, 3)), 2) == (UNITS[1], UNITS[4])
    assert select(SCORES, 0) == ()


def test_select_refuses_too_many():
    with pytest.raises(
        InputError, match="only 3 of 5 can go: layers 0 are protected, see the key 'protect'"
    ):
        select(SCORES, 4)
    with pytest.raises(InputError, match="removing 5 of 5 units would leave no model"):
        select(SCORES, 5)
    with pytest.raises(InputError, match="cannot remove -1"):
        select(SCORES, -1)


def test_contiguous_scores_serve_one_number_of_blocks():
    angular = dataclasses.replace(SCORES, criterion="angular", n=3, order=(1, 2, 3))
    assert select(angular, 3) == UNITS[1:4]
    with pytest.raises(InputError, match="of 3 contiguous blocks; to remove 2, score again"):
        select(angular, 2)


def test_files_give_the_scores_back():
    scores = dataclasses.replace(
        SCORES, delta_nll=(0.1, 0.2, None, 0.3, 0.4), settings={"power": 1.0}
    )
    text = json.dumps(scores.to_json())
    assert Scores.from_json(json.loads(text)) == scores
    assert "window_scores" not in json.loads(text)


@pytest.mark.parametrize("data", [{}, [], {"scores": [1.0]}, {"units": [{"layer": "x"}]}])
def test_other_files_are_refused(data):
    with pytest.raises(InputError, match="no file of scores"):
        Scores.from_json(data)


@pytest.mark.parametrize("order", [[99], [-1], [1, 1]])
def test_an_order_of_other_units_is_refused(order):
    with pytest.raises(InputError, match="positions from 0 to 4, each once at most"):
        Scores.from_json(SCORES.to_json() | {"order": order})
    with pytest.raises(InputError, match="no file of scores"):
        Scores.from_json(SCORES.to_json() | {"order": None})


def test_units_follow_from_the_granularity():
    data = {"criterion": "x", "granularity": "sublayer", "scores": [2.0, 1.0], "order": [1, 0]}
    assert Scores.from_json(data).units == (Unit(0, "attention"), Unit(0, "mlp"))


def test_scores_that_do_not_fit_the_units_are_refused():
    data = SCORES.to_json() | {"scores": [1.0]}
    with pytest.raises(InputError, match="has 1 scores for 5 units"):
        Scores.from_json(data)
