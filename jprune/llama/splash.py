"""Splash attention: flash attention on TPUs, which skips the blocks that the mask empties."""

from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, PartitionSpec
from jaxtyping import Array, Float, Int

from jprune.core.mesh import partition_spec

# Tokens per tile, largest first; the kernel wants multiples of a register's 128 lanes.
BLOCKS = (512, 256, 128)


def splash_attention(
    q: Float[Array, "batch length heads head_dim"],
    k: Float[Array, "batch length kv_heads head_dim"],
    v: Float[Array, "batch length kv_heads head_dim"],
    window: int | None = None,
    segments: Int[Array, "batch length"] | None = None,
    interpret: bool = False,
) -> Float[Array, "batch length heads head_dim"]:
    """`jprune.llama.attention.attend` by JAX's splash attention kernel.

    Heads that share a kv head read the same one. Windows are padded at the end to whole blocks,
    which a causal mask makes invisible to the positions that are kept. The partitioner cannot look
    into a kernel: on an ambient mesh each device runs it on its own windows and heads, or on all of
    them where they do not divide.

    Args:
      q: queries.
      k: keys.
      v: values.
      window: how many positions one sees, its own included; None for all before it.
      segments: numbers of documents, of which a position sees its own alone; None: all are one.
      interpret: run the kernel in JAX's interpreter, for devices that are not TPUs.
    """
    dtype, length = q.dtype, q.shape[1]
    if dtype == jnp.float16:  # a TPU's matrix unit has none
        q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    pad = -length % block_size(length)
    if pad:
        q, k, v = (jnp.pad(x, ((0, 0), (0, pad), (0, 0), (0, 0))) for x in (q, k, v))
        segments = None if segments is None else jnp.pad(segments, ((0, 0), (0, pad)))
    run = partial(_precise if q.dtype == jnp.float32 else _kernel, window, interpret)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.auto_axes:
        specs = _specs(q.shape, k.shape, mesh)
        numbers = None if segments is None else PartitionSpec(specs[0][0], None)
        in_specs = (*specs, numbers)
        run = jax.shard_map(run, in_specs=in_specs, out_specs=specs[0], check_vma=False)
    return run(q, k, v, segments)[:, :length].astype(dtype)


def block_size(length: int) -> int:
    """The largest of `BLOCKS` that lengthens a window by at most an eighth, else the smallest."""
    return next((block for block in BLOCKS if -length % block <= length // 8), BLOCKS[-1])


def _specs(q: tuple[int, ...], k: tuple[int, ...], mesh: AbstractMesh) -> tuple[PartitionSpec, ...]:
    """Windows and heads apart; heads only if the devices divide q's and k's, which go together."""
    axes = ("batch", None, "heads", None)
    by_q, by_k = (partition_spec(axes, shape, mesh, name="") for shape in (q, k))
    if by_q != by_k:
        by_q = partition_spec(("batch", None, None, None), q, mesh, name="")
    return by_q, by_q, by_q


def _kernel(
    window: int | None, interpret: bool, q: Array, k: Array, v: Array, segments: Array | None
) -> Array:
    # Here and not above: only TPUs need it, and what is experimental may move in a later JAX.
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    length, heads, head_dim = q.shape[1:]
    shape = (length, length)
    if window is None or window >= length:
        mask = splash.CausalMask(shape)
    else:
        mask = splash.LocalMask(shape, (window - 1, 0), 0)
    block = block_size(length)
    kernel = splash.make_splash_mha_single_device(
        splash.MultiHeadMask([mask] * heads),
        block_sizes=splash.BlockSizes(
            *(block, block),
            block_q_dkv=block,
            block_kv_dkv=block,
            block_q_dq=block,
            block_kv_dq=block,
        ),
        interpret=interpret,
    )
    precision = "highest" if q.dtype == jnp.float32 else "default"
    with jax.default_matmul_precision(precision):
        # The kernel takes heads first and does not scale. In half precision the factor itself must
        # not be rounded: that would be another temperature.
        q = (q.astype(jnp.float32) * head_dim**-0.5).astype(q.dtype)
        q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
        if segments is None:
            return jax.vmap(kernel)(q, k, v).swapaxes(1, 2)
        numbers = splash.SegmentIds(segments, segments)
        return jax.vmap(kernel)(q, k, v, numbers).swapaxes(1, 2)


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _precise(
    window: int | None, interpret: bool, q: Array, k: Array, v: Array, segments: Array | None
) -> Array:
    """`_kernel` for float32, whose backward pass is as precise as its forward pass."""
    return _kernel(window, interpret, q, k, v, segments)


def _precise_forward(window, interpret, q, k, v, segments):
    return jax.vjp(lambda q, k, v: _kernel(window, interpret, q, k, v, segments), q, k, v)


def _precise_backward(window, interpret, vjp, cotangent):
    # By now the forward pass's setting is gone.
    with jax.default_matmul_precision("highest"):
        return *vjp(cotangent), None


_precise.defvjp(_precise_forward, _precise_backward)
