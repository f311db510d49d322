"""Masks as transforms, alone and with others, and in recipes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jprune.checkpoints.mask_files import store
from jprune.core import InputError
from jprune.llama import Masked, forward, named_params, stack, unstack
from jprune.llama.linears import linear_kernels
from jprune.llama.masks import pack, unpack
from jprune.scores.sparsify import sparsify
from jprune.transforms import Recipe, apply_masks, chain, drop_blocks, sparse_weights
from tests.tiny import tiny, windows

LLAMA, IDS = tiny(3), windows(4, 12)
NAME = "layers.1.mlp.up_proj.kernel"


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture(scope="module")
def wanda():
    return sparsify(LLAMA, "wanda", IDS, density=0.5)


def stored(folder, result, with_kernels=False):
    """The SHA-256 of each block's masks, and of its kernels if these are new."""
    digests = []
    for index, block in enumerate(result.llama.blocks):
        prefix = f"layers.{index}."
        masks = {name: mask for name, mask in result.masks.items() if name.startswith(prefix)}
        kernels = {f"{prefix}{n}.kernel": np.asarray(k) for n, k in linear_kernels(block).items()}
        digests.append(store(folder, masks, kernels if with_kernels else None))
    return digests


def test_all_ones_change_nothing():
    ones = {
        f"layers.{i}.{name}.kernel": pack(np.ones(kernel.shape, bool))
        for i, block in enumerate(LLAMA.blocks)
        for name, kernel in linear_kernels(block).items()
    }
    same(apply_masks(LLAMA, ones), LLAMA)
    np.testing.assert_array_equal(
        forward(apply_masks(LLAMA, ones, keep_masks=True), IDS), forward(LLAMA, IDS)
    )


def test_masks_applied_are_the_pruned_model(wanda):
    same(apply_masks(LLAMA, wanda.masks), wanda.llama)
    same(unstack(apply_masks(stack(LLAMA), wanda.masks)), wanda.llama)
    masked = apply_masks(LLAMA, wanda.masks, keep_masks=True)
    assert isinstance(masked.blocks[0].attn.q.kernel, Masked)
    np.testing.assert_allclose(forward(masked, IDS), forward(wanda.llama, IDS), atol=1e-6)


def test_masks_on_masks_are_their_intersection(wanda):
    magnitude = sparsify(LLAMA, "magnitude", density=0.6)
    both = apply_masks(apply_masks(LLAMA, wanda.masks, keep_masks=True), magnitude.masks)
    expected = unpack(wanda.masks[NAME]) & unpack(magnitude.masks[NAME])
    np.testing.assert_array_equal(np.asarray(named_params(both)[NAME]) != 0, expected)


@pytest.mark.parametrize("criterion", ["wanda", "sparsegpt"])
def test_a_recipe_rebuilds_the_model(tmp_path, criterion):
    result = sparsify(LLAMA, criterion, IDS, density=0.5)
    made = sparse_weights(stored(tmp_path, result, criterion == "sparsegpt"), arrays=str(tmp_path))
    recipe = Recipe().then(made).to_json()
    assert "arrays" not in recipe["steps"][0]["args"]
    again = Recipe.from_json(recipe).transform(tmp_path)
    same(again(LLAMA), result.llama)
    same(jax.jit(again)(LLAMA), result.llama)
    assert jax.eval_shape(again, LLAMA).num_layers == 3


def test_depth_then_masks_and_masks_then_depth(tmp_path, wanda):
    masked = sparse_weights(stored(tmp_path, wanda), arrays=str(tmp_path))
    same(chain(masked, drop_blocks([1]))(LLAMA), drop_blocks([1])(wanda.llama))
    smaller = drop_blocks([1])(LLAMA)
    result = sparsify(smaller, "wanda", IDS, density=0.5)
    then = sparse_weights(stored(tmp_path, result), arrays=str(tmp_path))
    same(chain(drop_blocks([1]), then)(LLAMA), result.llama)


def test_what_does_not_fit(tmp_path, wanda):
    with pytest.raises(InputError, match="mask for layers.2.* which the model does not have"):
        apply_masks(drop_blocks([0])(LLAMA), wanda.masks)
    with pytest.raises(InputError, match=r"mask of .*up_proj.kernel is \(8, 8\), the kernel \(32"):
        apply_masks(LLAMA, {NAME: pack(np.ones((8, 8), bool))})
    step = sparse_weights(stored(tmp_path, wanda)[:2], arrays=str(tmp_path))
    with pytest.raises(InputError, match="masks of 2 blocks, the model has 3"):
        step(LLAMA)
    with pytest.raises(InputError, match="are not in"):
        sparse_weights(["0" * 64] * 3, arrays=str(tmp_path))(LLAMA)


@pytest.mark.parametrize("criterion", ["wanda", "sparsegpt"])
def test_arrays_stay_on_the_host(tmp_path, criterion):
    result = sparsify(LLAMA, criterion, IDS, density=0.5)
    digests = stored(tmp_path, result, criterion == "sparsegpt")
    host = jax.tree.map(np.asarray, LLAMA)
    pruned = sparse_weights(digests, arrays=str(tmp_path))(host)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(pruned))
    same(pruned, result.llama)
    halves = jax.tree.map(lambda x: x.astype(jnp.bfloat16), LLAMA)
    rounded = sparse_weights(digests, arrays=str(tmp_path))(halves)
    same(rounded, jax.tree.map(lambda x: x.astype(jnp.bfloat16), result.llama))
