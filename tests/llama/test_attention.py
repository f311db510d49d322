"""The dispatcher: which implementation, and padding that nobody sees."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jprune.llama import attention


def qkv(length, heads=4, kv_heads=2):
    rng = np.random.default_rng(length)
    draw = lambda n: jnp.asarray(rng.normal(size=(2, length, n, 8)), jnp.float32)  # noqa: E731
    return draw(heads), draw(kv_heads), draw(kv_heads)


def test_flash_only_where_it_pays(monkeypatch):
    half = jnp.bfloat16
    assert attention.resolve("auto", 4096, 128, half) == "xla"  # a CPU
    monkeypatch.setattr(attention, "_has_flash", lambda: True)
    assert attention.resolve("auto", 4096, 128, half) == "cudnn"
    assert attention.resolve("auto", 4096, 128, jnp.float32) == "xla"
    assert attention.resolve("auto", 128, 128, half) == "xla"
    assert attention.resolve("xla", 4096, 128, half) == "xla"
    # Widths that cuDNN refuses: OpenLLaMA-3B has 100.
    assert attention.resolve("auto", 4096, 100, half) == "xla"
    assert attention.resolve("auto", 4096, 256, half) == "xla"


@pytest.mark.parametrize(
    ("backend", "capability", "flash"),
    [("cpu", "", False), ("gpu", "9.0", True), ("gpu", "7.5", False), ("gpu", "gfx90a", False)],
)
def test_cards_with_flash_attention(backend, capability, flash, monkeypatch):
    device = types.SimpleNamespace(compute_capability=capability)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "devices", lambda: [device])
    assert attention._has_flash() is flash


@pytest.mark.parametrize("length", [1, 63, 64, 65])
def test_lengths_are_padded_for_flash_attention_and_cut_again(length, monkeypatch):
    real, seen = jax.nn.dot_product_attention, []

    def flash(q, k, v, *, is_causal, implementation):
        """Stands in for cuDNN: notes what it is asked, and refuses what cuDNN would."""
        assert implementation == "cudnn" and q.shape[1] % 64 == 0
        seen.append(q.shape[1])
        return real(q, k, v, is_causal=is_causal, implementation="xla")

    q, k, v = qkv(length)
    expected = attention.attend(q, k, v, "xla")
    monkeypatch.setattr(jax.nn, "dot_product_attention", flash)
    found = attention.attend(q, k, v, "cudnn")
    assert seen == [64 if length <= 64 else 128]
    np.testing.assert_allclose(found, expected, atol=1e-6)
