"""Candidates: equal ones are equal, and become JSON, gates and plans."""

import json

import numpy as np
import pytest

from jprune.core.errors import InputError
from jprune.scores import Unit
from jprune.search import Candidate, Mix
from jprune.transforms import StitchPlan


def test_order_and_idle_mixes_do_not_tell_candidates_apart():
    one = Candidate(
        (Unit(5, "block"), Unit(1, "block")),
        (Mix(3, (2, 0), 0.4), Mix(0, (1,)), Mix(2, (0, 1), 0.0)),
    )
    other = Candidate(
        (Unit(1, "block"), Unit(5, "block")), (Mix(0, (1,), 0.7), Mix(3, (0, 2), 0.4))
    )
    assert one == other and hash(one) == hash(other)
    assert one.mixes == (Mix(0, (1,)), Mix(3, (0, 2), 0.4))
    assert Mix(1, (0, 1)).factor == 1.0 and Mix(1, (0,), 0.3).factor is None


def test_json_and_back():
    candidate = Candidate(
        (Unit(1, "attention"), Unit(4, "mlp")), (Mix(0, (0, 1), 0.25), Mix(2, (1,)))
    )
    data = json.loads(json.dumps(candidate.to_json()))
    assert data == {
        "removed": [{"layer": 1, "part": "attention"}, {"layer": 4, "part": "mlp"}],
        "mixes": [
            {"layer": 0, "variants": [0, 1], "factor": 0.25},
            {"layer": 2, "variants": [1]},
        ],
    }
    assert Candidate.from_json(data) == candidate
    assert Candidate().to_json() == {"removed": []}


def test_gates():
    candidate = Candidate((Unit(0, "block"), Unit(1, "attention"), Unit(3, "mlp")))
    expected = [[False, False], [False, True], [True, True], [True, False]]
    np.testing.assert_array_equal(candidate.gates(4), expected)


def test_plan():
    candidate = Candidate(
        (Unit(1, "block"), Unit(3, "attention"), Unit(3, "mlp")), (Mix(0, (0, 1), 0.25),)
    )
    plan = candidate.plan(5, ("math", "code"))
    assert plan == StitchPlan.from_json(
        {
            "layers": [
                {"layer": 0, "variants": ["math", "code"], "factor": 0.25},
                {"layer": 2},
                {"layer": 4},
            ],
            "variants": ["math", "code"],
        }
    )
    single = Candidate((), (Mix(1, (1,)),)).plan(2)
    assert single == StitchPlan.from_json([{"layer": 0}, {"layer": 1, "variants": [1]}])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Candidate((Unit(3, "block"), Unit(3, "block"))), "removes block 3 twice"),
        (lambda: Candidate((), (Mix(2, (0,)), Mix(2, (1,)))), "mixes layer 2 twice"),
        (
            lambda: Candidate((Unit(2, "block"),), (Mix(2, (0,)),)),
            "mixes layer 2, which it removes",
        ),
        (lambda: Mix(1, ()), "a mix of layer 1 has some variants"),
        (lambda: Mix(1, (0, 0)), "each once; not \\[0, 0\\]"),
        (lambda: Mix(1, (-1,)), "numbers from 0"),
        (lambda: Mix(1, (0, 1), 1.5), "the factor of layer 1 is in \\[0, 1\\], not 1.5"),
        (lambda: Mix(1, (0, 1), float("nan")), "not nan"),
        (lambda: Candidate.from_json([1]), "this is no candidate; one looks like"),
        (lambda: Candidate.from_json({"removed": [{"layer": "x"}]}), "this is no candidate"),
        (lambda: Candidate((Unit(1, "mlp"),)).plan(3), "this candidate removes mlp 1 alone"),
        (lambda: Candidate((Unit(1, "attention"),)).plan(3), "removes attention 1 alone"),
        (lambda: Candidate((Unit(0, "block"), Unit(1, "block"))).plan(2), "leaves no model"),
    ],
)
def test_errors(make, message):
    with pytest.raises(InputError, match=message):
        make()
