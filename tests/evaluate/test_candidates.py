"""Many candidates at once against each one materialised."""

import jax
import numpy as np
import pytest

from jprune.evaluate import candidates
from jprune.evaluate.candidates import candidate_nll, sublayers
from jprune.llama import Lora, next_token_nll, stack
from tests.tiny import tiny, windows, without

LLAMA = tiny(5)
IDS = windows(7, 12)
nll = jax.jit(next_token_nll)


def expected(gates):
    return np.stack([np.asarray(nll(without(LLAMA, g), IDS)).mean(axis=1) for g in gates])


def random_gates(count, seed):
    return np.random.default_rng(seed).random((count, 5, 2)) < 0.7


@pytest.mark.parametrize("batch_size", [3, 7])
def test_any_candidates_in_any_order(batch_size):
    gates = np.concatenate([random_gates(6, 0), np.ones((1, 5, 2), bool), random_gates(2, 1)])
    found = candidate_nll(LLAMA, gates, IDS, batch_size=batch_size)
    assert found.shape == (9, 7) and found.dtype == np.float32
    np.testing.assert_allclose(found, expected(gates), atol=1e-5, rtol=0)


def testsublayers_that_the_model_lacks_stay_away():
    there = np.ones((5, 2), bool)
    there[1], there[3, 0] = False, False
    gates = np.ones((3, 5, 2), bool)
    gates[1, 2], gates[2, 4, 1] = False, False
    # Blocks without both sublayers are no part of a model: block 1 keeps its place here.
    llama = LLAMA.replace(
        blocks=tuple(
            sublayers(block, *map(bool, on)) for block, on in zip(LLAMA.blocks, there, strict=True)
        )
    )
    found = candidate_nll(llama, gates, IDS)
    np.testing.assert_allclose(found, expected(gates & there), atol=1e-5, rtol=0)


def test_a_stacked_model_with_an_adapter():
    q = LLAMA.blocks[0].attn.q.kernel
    a, b = jax.random.normal(jax.random.key(1), (2, 32, 32))
    block = LLAMA.blocks[0]
    adapter = block.attn.q.replace(kernel=Lora(q, a[:, :2], b[:2], scale=0.1))
    blocks = (block.replace(attn=block.attn.replace(q=adapter)),) * 2
    gates = np.ones((2, 2, 2), bool)
    gates[1, 0, 1] = False
    found = candidate_nll(stack(LLAMA.replace(blocks=blocks)), gates, IDS)
    alone = LLAMA.replace(blocks=blocks)
    expected = [np.asarray(nll(without(alone, on), IDS)).mean(axis=1) for on in gates]
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=0)


def test_more_candidates_than_fit_are_taken_in_groups(monkeypatch):
    gates = random_gates(5, 2)
    whole = candidate_nll(LLAMA, gates, IDS, batch_size=7)
    monkeypatch.setattr(candidates, "MAX_STATE_BYTES", 2 * 7 * 12 * 32 * 4)
    found = candidate_nll(LLAMA, gates, IDS, batch_size=7)
    np.testing.assert_allclose(found, whole, atol=1e-6, rtol=0)


def test_shared_prefixes_run_once_and_candidates_share_products(monkeypatch):
    calls = []

    def counted(block, states, ctx):
        calls.append(len(states))
        return advance(block, states, ctx)

    advance = candidates._advance
    monkeypatch.setattr(candidates, "_advance", counted)
    monkeypatch.setitem(candidates.TOKENS_PER_PRODUCT, "cpu", 2 * IDS.size)
    gates = np.ones((6, 5, 2), bool)
    gates[np.arange(5), np.arange(5)] = False
    candidate_nll(LLAMA, gates, IDS, batch_size=7)
    # At block l: the full model and the l candidates that lack an earlier one, two at a time.
    assert calls == [1, 2, 2, 1, 2, 2, 2, 2, 1]


def test_any_candidates_share_programs():
    candidate_nll(LLAMA, random_gates(9, 3), IDS, batch_size=7)
    size = candidates._advance._cache_size()
    for count in (1, 2, 6):
        gates = random_gates(count, count)
        found = candidate_nll(LLAMA, gates, IDS, batch_size=7)
        np.testing.assert_allclose(found, expected(gates), atol=1e-5, rtol=0)
    # The three ways to run a block, with several candidates or one.
    assert candidates._advance._cache_size() <= max(size, 6)
