"""Causal grouped-query attention, behind one dispatcher."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jprune.llama.splash import splash_attention

IMPLEMENTATIONS = ("auto", "xla", "cudnn", "splash")
Resolved = Literal["xla", "cudnn", "splash"]

# From this length on flash attention is taken: the scores of a window, which it keeps out of device
# memory, grow with the square of the length. With 128 tokens it took a tenth off leave-one-out
# perplexity at the shape of Llama-2-7B on an H200; shorter windows are not measured.
FLASH_LENGTH = 128
# cuDNN refuses odd lengths when training; multiples of its tiles waste nothing.
FLASH_MULTIPLE = 64
# cuDNN takes head widths that are multiples of 8, up to 128 on every card it runs on.
FLASH_HEAD_MULTIPLE, FLASH_MAX_HEAD = 8, 128
# The same on TPUs: one tile of splash attention. Not measured yet either.
SPLASH_LENGTH = 512
# Their matrix units do not take what the kernel gives them.
OLD_TPUS = ("TPU v2", "TPU v3")


def resolve(implementation: str, length: int, head_dim: int, dtype) -> Resolved:
    """The implementation that `attend` runs; 'auto' goes by device, length, head width, dtype."""
    if implementation == "cudnn":
        return "cudnn"
    if implementation == "splash":
        return "splash"
    if implementation != "auto":
        return "xla"
    platform, kind = _target()
    if platform == "tpu":
        return "splash" if length >= SPLASH_LENGTH and kind not in OLD_TPUS else "xla"
    half = dtype in (jnp.bfloat16, jnp.float16)
    fits = head_dim % FLASH_HEAD_MULTIPLE == 0 and head_dim <= FLASH_MAX_HEAD
    flash = _has_flash() and half and fits and length >= FLASH_LENGTH
    return "cudnn" if flash else "xla"


def _target() -> tuple[str, str]:
    """Platform and kind of the devices that run the program: the ambient mesh's or the default."""
    # A mesh may be of devices that are not here: so programs are compiled ahead of time for them.
    device = jax.sharding.get_abstract_mesh().abstract_device
    if device is None:
        return jax.default_backend(), jax.devices()[0].device_kind
    return device.platform, device.device_kind


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
    window: int | None = None,
    segments: Int[Array, "batch length"] | None = None,
    visible: Bool[Array, "batch length length"] | None = None,
) -> Float[Array, "batch length heads head_dim"]:
    """softmax(q k^T / sqrt(head_dim) + causal mask) v, each kv head serving heads / kv_heads heads.

    With a sliding `window` (Mistral) position i sees positions i - window + 1 to i, else all up to
    i; with `segments`, only those of them that have its number. The softmax is in float32. Lengths
    that flash attention does not take are padded at the end, which a causal mask makes invisible to
    the positions that are kept.

    With `visible` position i sees position j where visible[:, i, j], whatever the other arguments:
    no flash attention takes that.
    """
    if visible is not None:
        return masked_attention(q, k, v, visible)
    resolved = resolve(implementation, q.shape[1], q.shape[-1], q.dtype)
    if resolved == "cudnn":
        return _cudnn(q, k, v, window, segments)
    run = splash_attention if resolved == "splash" else plain_attention
    return run(q, k, v, window, segments)


def _cudnn(
    q: Array, k: Array, v: Array, window: int | None, segments: Int[Array, "batch length"] | None
) -> Array:
    """`attend` by cuDNN, to which JAX passes a mask of segments as numbers added to the scores.

    They are bytes in device memory, 2 * batch * length^2, the same for every head and layer. cuDNN
    has packed windows of its own, but JAX keeps them from the public and to the latest cards.
    """
    length = q.shape[1]
    pad = -length % FLASH_MULTIPLE
    if pad:
        q, k, v = (jnp.pad(x, ((0, 0), (0, pad), (0, 0), (0, 0))) for x in (q, k, v))
    out = jax.nn.dot_product_attention(
        *(q, k, v),
        mask=_mask(None if segments is None else jnp.pad(segments, ((0, 0), (0, pad)))),
        is_causal=True,
        local_window_size=_reach(window, length),
        implementation="cudnn",
    )
    return out[:, :length]


def _mask(
    segments: Int[Array, "batch length"] | None,
) -> Bool[Array, "batch 1 length length"] | None:
    """Which positions have the same number; None without segments."""
    if segments is None:
        return None
    return (segments[:, :, None] == segments[:, None, :])[:, None]


def _reach(window: int | None, length: int) -> tuple[int, int] | None:
    """How many positions before and after its own one sees; None where the window cuts nothing."""
    return None if window is None or window >= length else (window - 1, 0)


def plain_attention(
    q: Float[Array, "batch length heads head_dim"],
    k: Float[Array, "batch length kv_heads head_dim"],
    v: Float[Array, "batch length kv_heads head_dim"],
    window: int | None = None,
    segments: Int[Array, "batch length"] | None = None,
) -> Float[Array, "batch length heads head_dim"]:
    """`attend` by two matrix products through XLA, for any device and length."""
    dtype = q.dtype
    if dtype == jnp.float16 and jax.default_backend() == "cpu":
        # XLA has no half-precision product with float32 accumulation on CPUs.
        q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    precision = "highest" if q.dtype == jnp.float32 else "default"
    with jax.default_matmul_precision(precision):
        out = jax.nn.dot_product_attention(
            *(q, k, v),
            mask=_mask(segments),
            is_causal=True,
            local_window_size=_reach(window, q.shape[1]),
            implementation="xla",
        )
    return out.astype(dtype)


def masked_attention(
    q: Float[Array, "batch length heads head_dim"],
    k: Float[Array, "batch length kv_heads head_dim"],
    v: Float[Array, "batch length kv_heads head_dim"],
    visible: Bool[Array, "batch length length"],
) -> Float[Array, "batch length heads head_dim"]:
    """`attend` where a mask says what is visible, by two matrix products for each kv head."""
    dtype, (batch, length, heads, head_dim) = q.dtype, q.shape
    if dtype == jnp.float16 and jax.default_backend() == "cpu":
        q, k, v = (x.astype(jnp.float32) for x in (q, k, v))
    kv_heads = k.shape[2]
    precision = jax.lax.Precision.HIGHEST if q.dtype == jnp.float32 else None
    # All queries of a kv head in one product: on two CPU cores rows of 256 tokens took two thirds
    # of the time that they take head by head.
    stacked = q.reshape(batch, length, kv_heads, -1, head_dim).transpose(0, 2, 3, 1, 4)
    stacked = stacked.reshape(batch, kv_heads, -1, head_dim)
    k, v = (x.swapaxes(1, 2) for x in (k, v))
    scores = jnp.einsum(
        "bkqd,bksd->bkqs", stacked, k, precision=precision, preferred_element_type=jnp.float32
    )
    scores = scores.reshape(batch, kv_heads, -1, length, length) * head_dim**-0.5
    scores = jnp.where(visible[:, None, None], scores, jnp.finfo(jnp.float32).min)
    weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
    out = jnp.einsum(
        "bkqs,bksd->bkqd",
        weights.reshape(batch, kv_heads, -1, length).astype(q.dtype),
        v,
        precision=precision,
        preferred_element_type=jnp.float32,
    )
    out = out.reshape(batch, kv_heads, -1, length, head_dim) / weights.sum(axis=-1)[..., None]
    return out.transpose(0, 3, 1, 2, 4).reshape(batch, length, heads, head_dim).astype(dtype)
