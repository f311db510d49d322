"""Kernels: adapters and masks multiply like what they fold to."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jprune.llama import Lora, Masked, fold, fold_kernels, linear, stack
from jprune.llama import forward as forward_eagerly
from tests.tiny import tiny, windows

forward = jax.jit(forward_eagerly)


def arrays(seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape), jnp.float32)  # noqa: E731
    return draw(3, 6), draw(6, 5), draw(6, 2), draw(2, 5), jnp.asarray(rng.random((6, 5)) < 0.5)


def test_lora_adds_the_scaled_low_rank_product():
    x, w, a, b, _ = arrays()
    expected = np.asarray(x, np.float64) @ (np.asarray(w) + 0.5 * np.asarray(a) @ np.asarray(b))
    np.testing.assert_allclose(linear(x, Lora(w, a, b, scale=0.5)), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(x @ fold(Lora(w, a, b, scale=0.5)), expected, rtol=1e-4, atol=1e-5)


def test_lora_with_zero_b_is_the_identity():
    x, w, a, b, _ = arrays()
    np.testing.assert_array_equal(fold(Lora(w, a, 0 * b)), w)
    np.testing.assert_array_equal(linear(x, Lora(w, a, 0 * b, dropout=0.5)), linear(x, w))


def test_mask_of_an_adapter_masks_the_sum():
    x, w, a, b, mask = arrays()
    expected = np.where(mask, np.asarray(w) + 2 * np.asarray(a) @ np.asarray(b), 0)
    masked = Masked(Lora(w, a, b, scale=2.0), mask)
    np.testing.assert_allclose(fold(masked), expected, rtol=1e-5)
    assert (np.asarray(fold(masked))[~np.asarray(mask)] == 0).all()
    np.testing.assert_allclose(linear(x, masked), np.asarray(x) @ expected, rtol=1e-4, atol=1e-5)


def test_all_ones_mask_is_the_identity():
    x, w, *_ = arrays()
    np.testing.assert_array_equal(linear(x, Masked(w, jnp.ones_like(w, bool))), linear(x, w))


def test_a_mask_hides_what_is_not_finite():
    x, w, _, _, mask = arrays()
    broken = jnp.where(mask, w, jnp.nan)
    assert np.isfinite(linear(x, Masked(broken, mask))).all()


def test_dropout_needs_a_key_and_keeps_the_mean():
    x, w, a, b, _ = arrays()
    kernel = Lora(w, a, b, dropout=0.3)
    np.testing.assert_array_equal(linear(x, kernel), linear(x, Lora(w, a, b)))
    keys = jax.random.split(jax.random.key(0), 4000)
    drawn = jax.vmap(lambda key: linear(x, kernel, key=key))(keys)
    assert np.asarray(drawn).std(axis=0).min() > 0.01
    error = np.asarray(drawn).std(axis=0) / np.sqrt(len(keys))
    assert (np.abs(drawn.mean(axis=0) - linear(x, kernel)) < 5 * error).all()


def test_adapters_fold_in_float32_and_round_once():
    _, w, a, b, _ = arrays()
    half = w.astype(jnp.bfloat16)
    expected = (half.astype(jnp.float32) + 0.1 * (a @ b)).astype(jnp.bfloat16)
    found = fold(Lora(half, a, b, scale=0.1))
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("stacked", [False, True])
def test_folding_a_model_keeps_its_logits(stacked):
    llama, ids = tiny(2), windows(2, 8)
    rng = np.random.default_rng(1)

    def wrap(block):
        w = block.mlp.up.kernel
        a = jnp.asarray(rng.normal(size=(w.shape[0], 2)), jnp.float32)
        b = jnp.asarray(rng.normal(size=(2, w.shape[1])), jnp.float32)
        mask = jnp.asarray(rng.random(w.shape) < 0.7)
        up = block.mlp.up.replace(kernel=Masked(Lora(w, a, b, scale=0.2), mask))
        return block.replace(mlp=block.mlp.replace(up=up))

    wrapped = llama.replace(blocks=tuple(wrap(block) for block in llama.blocks))
    folded = fold_kernels(wrapped)
    model = stack(wrapped) if stacked else wrapped
    assert not isinstance(folded.blocks[0].mlp.up.kernel, Masked)
    np.testing.assert_allclose(forward(model, ids), forward(folded, ids), atol=1e-4)
    assert np.abs(forward(folded, ids) - forward(llama, ids)).max() > 0.1


def test_dropout_under_a_mask_spares_the_kernel():
    x, w, a, b, mask = arrays()
    kernel = Masked(Lora(w, a, b, scale=2.0, dropout=0.4), mask)
    key = jax.random.key(3)
    keep = jax.random.bernoulli(key, 0.6, x.shape)
    dropped = np.where(keep, np.asarray(x) / 0.6, 0)
    update = np.where(mask, 2.0 * np.asarray(a) @ np.asarray(b), 0)
    expected = np.asarray(x) @ np.where(mask, w, 0) + dropped @ update
    np.testing.assert_allclose(linear(x, kernel, key=key), expected, rtol=1e-4, atol=1e-5)
    assert np.abs(linear(x, kernel) - expected).max() > 0.1
