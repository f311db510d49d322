"""A virtual model computes what the materialised one does."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jprune.core.errors import InputError
from jprune.llama import Lora, Masked, Plan, init, next_token_nll, run_plan, virtual
from jprune.llama.forward import context, embed
from jprune.llama.loss import token_nll
from jprune.transforms import drop_sublayers
from tests.llama.test_stack import mixed
from tests.tiny import CONFIG, tiny, windows, without

IDS = windows(3, 16)


@jax.jit
def virtual_nll(llama, plan, ids):
    h = run_plan(llama, plan, embed(llama, ids), context(llama.config, ids.shape[1]))
    return token_nll(llama, h[:, :-1], ids[:, 1:])


@pytest.mark.parametrize("seed", range(4))
def test_any_subset_of_sublayers(seed):
    llama = tiny(5)
    gates = np.random.default_rng(seed).random((5, 2)) < 0.6
    stacked, plan = virtual(llama)
    plan = Plan(plan.layer, jnp.asarray(gates[:, 0]), jnp.asarray(gates[:, 1]))
    expected = jax.jit(next_token_nll)(without(llama, gates), IDS)
    np.testing.assert_allclose(virtual_nll(stacked, plan, IDS), expected, atol=1e-5, rtol=0)


def test_steps_may_repeat_and_reorder_layers():
    llama = tiny(3)
    stacked, _ = virtual(llama)
    order = [2, 0, 0, 1]
    plan = Plan(jnp.asarray(order), jnp.ones(4, bool), jnp.ones(4, bool))
    built = llama.replace(blocks=tuple(llama.blocks[i] for i in order))
    expected = jax.jit(next_token_nll)(built, IDS)
    np.testing.assert_allclose(virtual_nll(stacked, plan, IDS), expected, atol=1e-5, rtol=0)


def test_missing_sublayers_and_narrow_blocks_are_filled():
    llama = mixed()
    stacked, plan = virtual(llama)
    assert len(stacked.blocks) == 1 and stacked.num_layers == 5
    assert list(np.asarray(plan.attn)) == [True, True, False, True, True]
    expected = jax.jit(next_token_nll)(llama, IDS)
    np.testing.assert_allclose(virtual_nll(stacked, plan, IDS), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["attention", "mlp"])
def test_all_sublayers_of_a_kind_may_be_gone(kind):
    llama = drop_sublayers(**{kind: range(3)})(tiny(3))
    stacked, plan = virtual(llama)
    expected = jax.jit(next_token_nll)(llama, IDS)
    np.testing.assert_allclose(virtual_nll(stacked, plan, IDS), expected, atol=1e-5, rtol=0)


def test_wrapped_kernels_are_folded():
    llama = tiny(2)
    up = llama.blocks[1].mlp.up
    rng = np.random.default_rng(0)
    a, b = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in ((32, 2), (2, 56)))
    kernel = Masked(Lora(up.kernel, a, b, 0.5), jnp.asarray(rng.random((32, 56)) < 0.5))
    block = llama.blocks[1]
    block = block.replace(mlp=block.mlp.replace(up=up.replace(kernel=kernel)))
    wrapped = llama.replace(blocks=(llama.blocks[0], block))
    stacked, plan = virtual(wrapped)
    expected = jax.jit(next_token_nll)(wrapped, IDS)
    np.testing.assert_allclose(virtual_nll(stacked, plan, IDS), expected, atol=1e-5, rtol=0)


def test_closed_gates_hide_what_is_not_finite():
    llama = tiny(3)
    stacked, plan = virtual(llama)
    broken = jax.tree.map(lambda leaf: leaf.at[1].set(jnp.nan), stacked.blocks[0].block)
    stacked = stacked.replace(blocks=(stacked.blocks[0].replace(block=broken),))
    off = Plan(plan.layer, plan.attn.at[1].set(False), plan.mlp.at[1].set(False))
    assert np.isfinite(virtual_nll(stacked, off, IDS)).all()
    assert np.isnan(virtual_nll(stacked, plan, IDS)).any()


def test_plans_share_one_program():
    llama = tiny(3)
    stacked, plan = virtual(llama)
    virtual_nll(stacked, plan, IDS)
    before = virtual_nll._cache_size()
    for gate in range(3):
        virtual_nll(stacked, Plan(plan.layer, plan.attn.at[gate].set(False), plan.mlp), IDS)
    assert virtual_nll._cache_size() == before


def test_groups_of_different_size_are_refused():
    llama = tiny(2)
    wide = init(dataclasses.replace(CONFIG, num_key_value_heads=4), 1, jax.random.key(0))
    blocks = (llama.blocks[0], wide.blocks[0])
    with pytest.raises(InputError, match="query heads per key-value head"):
        virtual(llama.replace(blocks=blocks))
