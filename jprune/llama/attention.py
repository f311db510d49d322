"""Causal grouped-query attention, behind one dispatcher."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

IMPLEMENTATIONS = ("auto", "xla", "cudnn")
Resolved = Literal["xla", "cudnn"]

# From this length on flash attention is taken: the scores of a window, which it keeps out of device
# memory, grow with the square of the length. The best place for the change is not measured yet.
FLASH_LENGTH = 256
# cuDNN refuses odd lengths when training; multiples of its tiles waste nothing.
FLASH_MULTIPLE = 64
# cuDNN takes head widths that are multiples of 8, up to 128 on every card it runs on.
FLASH_HEAD_MULTIPLE, FLASH_MAX_HEAD = 8, 128


def resolve(implementation: str, length: int, head_dim: int, dtype) -> Resolved:
    """The implementation that `attend` runs; 'auto' goes by device, length, head width, dtype."""
    if implementation != "auto":
        return "cudnn" if implementation == "cudnn" else "xla"
    half = dtype in (jnp.bfloat16, jnp.float16)
    fits = head_dim % FLASH_HEAD_MULTIPLE == 0 and head_dim <= FLASH_MAX_HEAD
    flash = _has_flash() and half and fits and length >= FLASH_LENGTH
    return "cudnn" if flash else "xla"


def _has_flash() -> bool:
    """Whether the default device is an NVIDIA card of the Ampere generation or later."""
    if jax.default_backend() != "gpu":
        return False
    capability = getattr(jax.devices()[0], "compute_capability", "")
    # AMD's cards say "gfx90a" and the like.
    return capability.replace(".", "").isdigit() and float(capability) >= 8


def attend(
    q: Float[Array, "batch length heads head_dim"],
    k: Float[Array, "batch length kv_heads head_dim"],
    v: Float[Array, "batch length kv_heads head_dim"],
    implementation: str = "auto",
) -> Float[Array, "batch length heads head_dim"]:
    """softmax(q k^T / sqrt(head_dim) + causal mask) v, each kv head serving heads / kv_heads heads.

    The softmax is in float32. Lengths that flash attention does not take are padded at the end,
    which a causal mask makes invisible to the positions that are kept.
    """
    length = q.shape[1]
    resolved = resolve(implementation, length, q.shape[-1], q.dtype)
    if resolved == "xla":
        return plain_attention(q, k, v)
    pad = -length % FLASH_MULTIPLE
    if pad:
        q, k, v = (jnp.pad(x, ((0, 0), (0, pad), (0, 0), (0, 0))) for x in (q, k, v))
    out = jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation=resolved)
    return out[:, :length]


def plain_attention(
    q: Float[Array, "batch length heads head_dim"],
    k: Float[Array, "batch length kv_heads head_dim"],
    v: Float[Array, "batch length kv_heads head_dim"],
) -> Float[Array, "batch length heads head_dim"]:
    """`attend` by two matrix products through XLA, for any device and length."""
    dtype = q.dtype
    if dtype == jnp.float16 and jax.default_backend() == "cpu":
        # XLA has no half-precision product with float32 accumulation on CPUs.
        q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    precision = "highest" if q.dtype == jnp.float32 else "default"
    with jax.default_matmul_precision(precision):
        out = jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="xla")
    return out.astype(dtype)
