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
    assert attention.resolve("auto", attention.FLASH_LENGTH, 128, half) == "cudnn"
    assert attention.resolve("auto", attention.FLASH_LENGTH - 1, 128, half) == "xla"
    assert attention.resolve("xla", 4096, 128, half) == "xla"
    # Widths that cuDNN refuses: OpenLLaMA-3B has 100.
    assert attention.resolve("auto", 4096, 100, half) == "xla"
    assert attention.resolve("auto", 4096, 256, half) == "xla"


@pytest.mark.parametrize(
    ("kind", "length", "expected"),
    [("TPU v5 lite", 512, "splash"), ("TPU v5 lite", 511, "xla"), ("TPU v3", 4096, "xla")],
)
def test_splash_attention_on_tpus(kind, length, expected, monkeypatch):
    monkeypatch.setattr(attention, "_target", lambda: ("tpu", kind))
    for dtype in (jnp.bfloat16, jnp.float16, jnp.float32):
        assert attention.resolve("auto", length, 100, dtype) == expected
    assert attention.resolve("xla", length, 100, jnp.bfloat16) == "xla"


@pytest.fixture
def tpus():
    """A mesh of TPUs that are not here."""
    device = jax.sharding.AbstractDevice(device_kind="TPU v6 lite", num_cores=1, platform="tpu")
    axes = (jax.sharding.AxisType.Auto,)
    return jax.sharding.AbstractMesh((1,), ("data",), abstract_device=device, axis_types=axes)


def shapes(length):
    return [jax.ShapeDtypeStruct((1, length, 2, 8), jnp.float32)] * 3


def test_the_mesh_says_what_a_program_is_for(tpus):
    def lowered(length):
        # Not one function for all: a program that is traced already is not traced for a mesh.
        traced = jax.jit(lambda *x: attention.attend(*x)).trace(*shapes(length))
        return traced.lower(lowering_platforms=("tpu",)).as_text()

    assert attention._target() == ("cpu", jax.devices()[0].device_kind)
    assert "tpu_custom_call" not in lowered(attention.SPLASH_LENGTH)
    with jax.sharding.use_abstract_mesh(tpus):
        assert attention._target() == ("tpu", "TPU v6 lite")
        assert "tpu_custom_call" in lowered(attention.SPLASH_LENGTH)
        short = lowered(attention.SPLASH_LENGTH - 1)
    assert "tpu_custom_call" not in short and "dot_general" in short


def test_no_program_is_traced_twice(tpus, monkeypatch):
    """The kernel of another device costs seconds of tracing, though its program is dropped."""
    calls = []
    for name in ("splash_attention", "plain_attention"):
        monkeypatch.setattr(attention, name, lambda q, *_, name=name: calls.append(name) or q)

    def run():
        jax.eval_shape(lambda *x: attention.attend(*x), *shapes(attention.SPLASH_LENGTH))
        return calls.pop() if len(calls) == 1 else calls

    assert run() == "plain_attention"
    with jax.sharding.use_abstract_mesh(tpus):
        assert run() == "splash_attention"


@pytest.mark.parametrize(
    ("backend", "capability", "flash"),
    [("cpu", "", False), ("gpu", "9.0", True), ("gpu", "7.5", False), ("gpu", "gfx90a", False)],
)
def test_cards_with_flash_attention(backend, capability, flash, monkeypatch):
    device = types.SimpleNamespace(compute_capability=capability)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "devices", lambda: [device])
    assert attention._has_flash() is flash


def dense(q, k, v, window):
    """The definition, head by head in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    length, group = q.shape[1], q.shape[2] // k.shape[2]
    i, j = np.indices((length, length))
    seen = (j <= i) & (j > i - (window or length))
    out = np.empty_like(q)
    for b, n in np.ndindex(q.shape[0], q.shape[2]):
        scores = q[b, :, n] @ k[b, :, n // group].T / np.sqrt(q.shape[-1])
        weights = np.where(seen, np.exp(scores), 0)
        out[b, :, n] = weights / weights.sum(axis=1, keepdims=True) @ v[b, :, n // group]
    return out


@pytest.mark.parametrize("window", [None, 1, 3, 9, 10, 11])
def test_a_position_sees_itself_and_the_window_before_it(window):
    q, k, v = qkv(10)
    found = attention.attend(q, k, v, "xla", window)
    np.testing.assert_allclose(found, dense(q, k, v, window), atol=1e-5)


@pytest.mark.parametrize("window", [None, 5, 64])
@pytest.mark.parametrize("length", [1, 63, 64, 65])
def test_lengths_are_padded_for_flash_attention_and_cut_again(length, window, monkeypatch):
    real, seen = jax.nn.dot_product_attention, []

    def flash(q, k, v, *, mask, is_causal, local_window_size, implementation):
        """Stands in for cuDNN: notes what it is asked, and refuses what cuDNN would."""
        assert implementation == "cudnn" and q.shape[1] % 64 == 0 and mask is None
        seen.append((q.shape[1], local_window_size))
        how = {"is_causal": is_causal, "local_window_size": local_window_size}
        return real(q, k, v, **how, implementation="xla")

    q, k, v = qkv(length)
    expected = attention.attend(q, k, v, "xla", window)
    monkeypatch.setattr(jax.nn, "dot_product_attention", flash)
    found = attention.attend(q, k, v, "cudnn", window)
    reach = None if window is None or window >= length else (window - 1, 0)
    assert seen == [(64 if length <= 64 else 128, reach)]
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_what_a_mask_says_is_visible(dtype):
    q, k, v = (x.astype(dtype) for x in qkv(9))
    rng = np.random.default_rng(1)
    visible = rng.random((2, 9, 9)) < 0.4
    visible |= np.eye(9, dtype=bool)
    found = attention.attend(q, k, v, "cudnn", 3, visible=jnp.asarray(visible))
    assert found.dtype == q.dtype
    wide = [np.asarray(x.astype(jnp.float32), np.float64) for x in (q, k, v)]
    for row in range(2):
        for head in range(4):
            queries, keys, values = (
                x[row, :, i] for x, i in zip(wide, (head, *[head // 2] * 2), strict=True)
            )
            weights = np.exp(queries @ keys.T / 8**0.5) * visible[row]
            expected = weights / weights.sum(axis=1, keepdims=True) @ values
            limit = 1e-5 if dtype == "float32" else 0.03
            np.testing.assert_allclose(
                np.asarray(found[row, :, head], np.float64), expected, atol=limit
            )
