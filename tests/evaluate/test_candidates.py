"""Many candidates at once against each one materialised."""

import jax
import numpy as np
import pytest

from jprune.evaluate import candidates
from jprune.evaluate.candidates import candidate_nll, first_difference, plan_gates
from jprune.llama import Plan, next_token_nll, virtual
from tests.tiny import tiny, windows, without

LLAMA = tiny(5)
IDS = windows(7, 12)
STACKED, PLAN = virtual(LLAMA)
nll = jax.jit(next_token_nll)


def expected(gates):
    return np.stack([np.asarray(nll(without(LLAMA, g), IDS)).mean(axis=1) for g in gates])


def random_gates(count, seed):
    return np.random.default_rng(seed).random((count, 5, 2)) < 0.7


@pytest.mark.parametrize("batch_size", [3, 7])
def test_any_candidates_in_any_order(batch_size):
    gates = np.concatenate([random_gates(6, 0), np.ones((1, 5, 2), bool), random_gates(2, 1)])
    found = candidate_nll(STACKED, PLAN, gates, IDS, batch_size=batch_size)
    assert found.shape == (9, 7) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected(gates), atol=1e-5, rtol=0)


def test_candidates_of_a_pruned_base():
    base = np.ones((5, 2), bool)
    base[1], base[3, 0] = False, False
    gates = np.stack([base, base, base])
    gates[1, 2], gates[2, 4, 1] = False, False
    plan = Plan(PLAN.layer, base[:, 0], base[:, 1])
    found = candidate_nll(STACKED, plan, gates, IDS)
    np.testing.assert_allclose(found, expected(gates), atol=1e-5, rtol=0)


def test_a_candidate_may_have_what_the_base_lacks():
    base = np.ones((5, 2), bool)
    base[2] = False
    plan = Plan(PLAN.layer, base[:, 0], base[:, 1])
    gates = np.ones((1, 5, 2), bool)
    found = candidate_nll(STACKED, plan, gates, IDS)
    np.testing.assert_allclose(found, expected(gates), atol=1e-5, rtol=0)


def test_more_candidates_than_fit_are_taken_in_groups(monkeypatch):
    gates = random_gates(5, 2)
    whole = candidate_nll(STACKED, PLAN, gates, IDS, batch_size=7)
    monkeypatch.setattr(candidates, "MAX_STATE_BYTES", 2 * 7 * 12 * 32 * 4)
    np.testing.assert_array_equal(candidate_nll(STACKED, PLAN, gates, IDS, batch_size=7), whole)


def test_calls_of_one_capacity_share_a_program():
    candidate_nll(STACKED, PLAN, random_gates(4, 3), IDS, capacity=6, batch_size=7)
    size = candidates._frontier._cache_size()
    for count in (1, 2, 6):
        gates = random_gates(count, count)
        found = candidate_nll(STACKED, PLAN, gates, IDS, capacity=6, batch_size=7)
        np.testing.assert_allclose(found, expected(gates), atol=1e-5, rtol=0)
    assert candidates._frontier._cache_size() == size


def test_first_difference():
    full = plan_gates(PLAN)
    gates = np.stack([full] * 3)
    gates[1, 0, 1], gates[2, 4, 0] = False, False
    np.testing.assert_array_equal(first_difference(PLAN, gates), [5, 0, 4])
