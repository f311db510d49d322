"""What a search found, by values computed by hand."""

import json

import pytest

from jprune.core.errors import InputError
from jprune.scores import Unit
from jprune.search import Candidate, SearchResult
from jprune.search.result import best_of, pareto_front, summarise
from jprune.search.trials import Past, Reached
from tests.search.landscapes import drop_space, objective

CODE, TASK = objective("code"), objective("task", maximize=True)
# Two rungs; on the first the base was worse.
BASE = [[2.5, 0.25], [2.0, 0.5]]


def trial(number, state, values=(), ended=0.0, remove=3, **more):
    """Ratios on the last rung are code / 2 and 0.5 / task; on the first code / 2.5, 0.25 / task."""
    removed = tuple(Unit((number + i) % 12, "block") for i in range(remove))
    reached = []
    for rung, (code, task) in enumerate(values):
        score = (code / BASE[rung][0] + BASE[rung][1] / task) / 2
        reached.append(Reached((code, task), score, ((4, 4), (16, 16))[rung], 1.5))
    signature = {"host": "tpu-1", "pid": 7}
    candidate = Candidate(removed)
    return Past(
        *(number, number, state, number, candidate, tuple(reached), signature, 0),
        ended=ended,
        **more,
    )


PAST = [
    trial(0, "complete", [(4.0, 0.25), (3.0, 0.25)], ended=3.0),  # ratios 1.5, 2: score 1.75
    trial(1, "pruned", [(5.0, 0.125)], ended=1.0),
    trial(2, "complete", [(4.0, 0.25), (2.5, 0.4)], ended=4.0),  # 1.25, 1.25: 1.25
    trial(3, "failed", ended=5.0, error="ValueError: no"),
    trial(4, "complete", [(4.0, 0.25), (2.4, 0.2)], ended=6.0),  # 1.2, 2.5: 1.85
    trial(5, "complete", [(4.0, 0.25), (2.5, 0.3)], ended=2.0),  # 1.25, 1.667: dominated by 2
    trial(6, "lost", [(1.0, 1.0)], ended=7.0, lost="its worker died"),
    trial(7, "complete", [(4.0, 0.25), (2.0, 0.5)], ended=8.0, remove=2),  # a step of greedy
    trial(8, "complete", [(4.0, 0.25), (3.0, 0.5)], ended=9.0),  # 1.5, 1: 1.25 too
    trial(9, "running", [(4.0, 0.25)]),
    Past(10, 10, "lost", None, None, (), {}, 0),  # one too many
]


@pytest.fixture(scope="module")
def result():
    return summarise(drop_space(3), [CODE, TASK], BASE, PAST)


def test_front_and_incumbent(result):
    assert [row.number for row in result.front] == [2, 4, 8]
    assert result.incumbent.number == 2  # as good as 8, but earlier
    assert result.incumbent.ratios == (1.25, 1.25)
    assert result.candidate == PAST[2].candidate
    assert result.base == (2.0, 0.5)


def test_history(result):
    assert [row.number for row in result.history] == list(range(10))
    by_number = {row.number: row for row in result.history}
    assert by_number[1].rung == 1 and by_number[1].ratios == (2.0, 2.0)
    assert by_number[0].rung == 2 and by_number[0].seconds == 3.0
    assert by_number[3].error == "ValueError: no" and by_number[3].values is None
    assert by_number[6].error == "its worker died"
    assert by_number[0].worker == "tpu-1:7"
    assert not by_number[7].in_space and by_number[2].in_space
    assert result.counts() == {**{"complete": 6, "failed": 1, "lost": 1, "pruned": 1, "running": 1}}


def test_curve_goes_by_when_trials_ended(result):
    # 1 (pruned), 5, 0, 2, 3 (failed), 4, 7 (not of the space), 8; the lost one does not count.
    numbers = [None, 5, 5, 2, 2, 2, 2, 2]
    assert [point["number"] for point in result.curve] == numbers
    assert [point["trials"] for point in result.curve] == list(range(1, 9))
    assert result.curve[0]["score"] is None and result.curve[0]["values"] is None
    assert result.curve[1]["score"] == pytest.approx((1.25 + 0.5 / 0.3) / 2)
    assert result.curve[-1] == {"trials": 8, "number": 2, "score": 1.25, "values": [2.5, 0.4]}


def test_one_objective(result):
    past = [PAST[i] for i in (0, 2, 4)]
    only = [
        Past(
            **vars(one)
            | {
                "reached": tuple(
                    Reached(r.values[:1], r.values[0] / base[0], r.items[:1], 0.0)
                    for r, base in zip(one.reached, BASE, strict=True)
                )
            }
        )
        for one in past
    ]
    found = summarise(drop_space(3), [CODE], [base[:1] for base in BASE], only)
    assert [row.number for row in found.front] == [4]
    assert found.incumbent.number == 4 and found.incumbent.values == (2.4,)


def test_equal_values_are_on_the_front_once(result):
    rows = [row for row in result.history if row.number in (2, 4)]
    twin = type(rows[0])(**vars(rows[0]) | {"number": 11})
    assert [r.number for r in pareto_front([CODE, TASK], [*rows, twin])] == [2, 4]
    assert best_of([twin, *rows]).number == 2


def test_json_and_back(result):
    data = json.loads(json.dumps(result.to_json()))
    assert SearchResult.from_json(data) == result
    assert data["incumbent"]["candidate"] == {
        "removed": [{"layer": layer, "part": "block"} for layer in (2, 3, 4)]
    }


@pytest.mark.parametrize(
    ("past", "message"),
    [
        ([], "none of 0 trials was evaluated on everything$"),
        ([PAST[1], PAST[3], PAST[7]], "none of 3 trials .*; the last error: ValueError: no"),
    ],
)
def test_nothing_found(past, message):
    with pytest.raises(InputError, match=message):
        summarise(drop_space(3), [CODE, TASK], BASE, past)


def test_not_a_result():
    with pytest.raises(InputError, match="this is no result of a search"):
        SearchResult.from_json({"base": []})
