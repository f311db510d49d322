"""The TPU kernel, in JAX's interpreter: it computes what the plain products do."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jprune.core.mesh import use_mesh
from jprune.llama.attention import plain_attention
from jprune.llama.splash import block_size, splash_attention


def arrays(length, heads, kv_heads, head_dim=16, batch=2, dtype=jnp.float32):
    rng = np.random.default_rng(length + heads)
    counts = (heads, kv_heads, kv_heads, heads)
    return [jnp.asarray(rng.normal(size=(batch, length, n, head_dim)), dtype) for n in counts]


def with_gradient(run, q, k, v, cotangent):
    """The output and the gradients of q, k and v."""

    @jax.jit
    def both(q, k, v, cotangent):
        out, vjp = jax.vjp(run, q, k, v)
        return out, *vjp(cotangent)

    return both(q, k, v, cotangent)


def assert_same(found, expected, atol):
    for name, x, y in zip(("out", "dq", "dk", "dv"), found, expected, strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape
        x, y = (np.asarray(a, np.float32) for a in (x, y))
        np.testing.assert_allclose(x, y, atol=atol, err_msg=name)


@pytest.mark.parametrize(
    ("length", "heads", "kv_heads", "window"),
    [
        (1, 2, 2, None),
        (130, 4, 2, None),
        (128, 2, 1, 128),
        (300, 4, 4, 70),  # blocks before the window are skipped
        (261, 6, 2, 129),
        (260, 2, 2, 1),
    ],
)
def test_lengths_groups_and_windows(length, heads, kv_heads, window):
    args = arrays(length, heads, kv_heads)
    found = with_gradient(lambda q, k, v: splash_attention(q, k, v, window, interpret=True), *args)
    expected = with_gradient(lambda q, k, v: plain_attention(q, k, v, window), *args)
    assert_same(found, expected, atol=1e-5)


@pytest.mark.parametrize(("dtype", "atol"), [(jnp.bfloat16, 0.04), (jnp.float16, 0.004)])
def test_half_precision(dtype, atol):
    args = arrays(200, 4, 2, head_dim=128, dtype=dtype)
    found = with_gradient(lambda q, k, v: splash_attention(q, k, v, interpret=True), *args)
    exact = [x.astype(jnp.float32) for x in args]
    expected = with_gradient(plain_attention, *exact)
    assert_same(found, [x.astype(dtype) for x in expected], atol)


@pytest.mark.parametrize(
    ("length", "block"),
    [(2048, 512), (512, 512), (511, 512), (520, 128), (700, 256), (200, 128), (1, 128)],
)
def test_block_sizes(length, block):
    assert block_size(length) == block


@pytest.mark.skipif(len(jax.devices()) < 8, reason="needs eight devices")
@pytest.mark.parametrize(
    ("batch", "heads", "kv_heads", "spec"),
    [
        (4, 4, 2, (("data", "fsdp"), None, "tensor", None)),
        (4, 3, 3, (("data", "fsdp"), None, None, None)),
        (4, 4, 1, (("data", "fsdp"), None, None, None)),
        (3, 4, 2, (None, None, "tensor", None)),
        (3, 2, 1, (None, None, None, None)),
    ],
)
def test_each_device_of_a_mesh_runs_its_own_windows_and_heads(batch, heads, kv_heads, spec):
    args = arrays(130, heads, kv_heads, batch=batch)
    expected = with_gradient(plain_attention, *args)
    with use_mesh("data:2,fsdp:2,tensor:2"):
        found = with_gradient(lambda q, k, v: splash_attention(q, k, v, interpret=True), *args)
        traced = jax.make_jaxpr(lambda *a: splash_attention(*a, interpret=True))(*args[:3])
    assert_same(found, expected, atol=1e-5)
    [mapped] = [e for e in traced.eqns if e.primitive.name == "shard_map"]
    assert mapped.params["in_specs"][-3:] == (PartitionSpec(*spec),) * 3
    assert mapped.params["out_specs"] == (PartitionSpec(*spec),)


@pytest.mark.skipif(len(jax.devices()) < 8, reason="needs eight devices")
def test_inside_a_mapped_function_the_kernel_runs_as_it_is():
    args = arrays(130, 2, 1, batch=8)[:3]
    with use_mesh("data:8"):
        run = jax.shard_map(
            lambda q, k, v: splash_attention(q, k, v, interpret=True),
            in_specs=PartitionSpec("data"),
            out_specs=PartitionSpec("data"),
            check_vma=False,
        )
        found = jax.jit(run)(*args)
    np.testing.assert_allclose(found, plain_attention(*args), atol=1e-5)
