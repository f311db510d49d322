"""The keys and values of earlier tokens, which decoding keeps.

Prompts of different lengths end together: slot s of a cache belongs to the same step for all rows,
and row b begins at slot `pads[b]`. So one slice writes the new keys of all rows. With a sliding
window the slots are a ring, as long as the window.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int


@struct.dataclass
class Cache:
    """Keys and values of one block, those of a head together.

    Attributes:
      k: rotated keys [batch, kv_heads, slots, head_dim].
      v: values, likewise.
    """

    k: Float[Array, "batch kv_heads slots head_dim"]
    v: Float[Array, "batch kv_heads slots head_dim"]


def capacity(total: int, window: int | None) -> int:
    """How many slots a cache of `total` tokens has, prompt and new ones together."""
    return total if window is None else min(total, window)


def prompt_cache(
    k: Float[Array, "batch length kv_heads head_dim"],
    v: Float[Array, "batch length kv_heads head_dim"],
    pads: Int[Array, " batch"],
    slots: int,
) -> Cache:
    """The cache after the prompts.

    Args:
      k: rotated keys of prompts that begin at 0 and are filled up behind.
      v: values.
      pads: how many tokens each is filled up with: its first slot.
      slots: of the cache.
    """
    length = k.shape[1]
    ring = np.arange(slots)
    slot = length - 1 - (length - 1 - ring) % slots  # the last one before `length` that falls here
    source = jnp.clip(slot[None] - pads[:, None], 0, length - 1)

    def moved(x: Array) -> Array:
        return jnp.swapaxes(jnp.take_along_axis(x, source[:, :, None, None], axis=1), 1, 2)

    return Cache(moved(k), moved(v))


def extend(
    cache: Cache,
    k: Float[Array, "batch 1 kv_heads head_dim"],
    v: Float[Array, "batch 1 kv_heads head_dim"],
    slot: Int[Array, ""],
) -> Cache:
    """The cache with the key and value of one more token of every row."""
    place = slot % cache.k.shape[2]

    def written(old: Array, new: Array) -> Array:
        return jax.lax.dynamic_update_slice_in_dim(old, jnp.swapaxes(new, 1, 2), place, axis=2)

    return Cache(written(cache.k, k), written(cache.v, v))


def visible(
    slots: int, slot: Int[Array, ""], pads: Int[Array, " batch"]
) -> Bool[Array, "batch slots"]:
    """Which places of a cache the token at `slot`, which is in it already, attends to."""
    ring = jnp.arange(slots)
    held = slot - (slot - ring) % slots  # the slot whose key lies here
    return held[None] >= pads[:, None]


def attend_cached(
    q: Float[Array, "batch 1 heads head_dim"], cache: Cache, seen: Bool[Array, "batch slots"]
) -> Float[Array, "batch 1 heads head_dim"]:
    """softmax(q k^T / sqrt(head_dim)) v over the places that are seen; the softmax in float32."""
    batch, _, heads, head_dim = q.shape
    kv_heads = cache.k.shape[1]
    precision = jax.lax.Precision.HIGHEST if q.dtype == jnp.float32 else None
    grouped = q.reshape(batch, kv_heads, heads // kv_heads, head_dim)
    scores = jnp.einsum(
        "bkgd,bksd->bkgs", grouped, cache.k, precision=precision, preferred_element_type=jnp.float32
    )
    scores = jnp.where(seen[:, None, None], scores * head_dim**-0.5, -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(q.dtype)
    out = jnp.einsum("bkgs,bksd->bkgd", weights, cache.v, precision=precision)
    return out.reshape(batch, 1, heads, head_dim)
