"""Rotary position embeddings, half-split as in Hugging Face checkpoints."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jprune.llama.config import Rope


def frequencies(rope: Rope, head_dim: int) -> np.ndarray:
    """Angular frequency of each pair of channels, in radians per position [head_dim / 2].

    f_i = theta^(-2i / head_dim). `linear`: f_i / factor. `llama3`, with wavelength w = 2 pi / f and
    context c: f where w < c / high_freq_factor, f / factor where w > c / low_freq_factor, and
    between the two ((1 - s) / factor + s) f with s = (c / w - low) / (high - low).

    Reference: Su et al., RoFormer (arXiv 2104.09864), 3.2.2; The Llama 3 Herd of Models, 3.4.2.
    """
    # Computed in float32 like every published implementation: in float64 the angles of late
    # positions would differ from those the model was trained with.
    exponent = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    freqs = (np.float32(1.0) / np.float32(rope.theta) ** exponent).astype(np.float32)
    if rope.kind == "linear":
        return (freqs / np.float32(rope.factor)).astype(np.float32)
    if rope.kind == "llama3":
        wavelength = 2 * np.pi / freqs
        context = rope.original_max_position_embeddings
        low, high = rope.low_freq_factor, rope.high_freq_factor
        smooth = np.clip((context / wavelength - low) / (high - low), 0.0, 1.0)
        return ((1 - smooth) * freqs / rope.factor + smooth * freqs).astype(np.float32)
    return freqs


def rope_table(
    rope: Rope, head_dim: int, length: int
) -> tuple[Float[Array, "length half"], Float[Array, "length half"]]:
    """Cosine and sine of position * frequency for positions 0 to length - 1, in float32."""
    angles = np.arange(length, dtype=np.float32)[:, None] * frequencies(rope, head_dim)[None]
    return jnp.cos(angles), jnp.sin(angles)


def positions(segments: Int[Array, "batch length"]) -> Int[Array, "batch length"]:
    """The place of every token in its segment, from 0 on: a run of equal numbers."""
    places = jnp.arange(segments.shape[1])
    begins = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    return places - jax.lax.cummax(jnp.where(begins, places, 0), axis=1)


def apply_rope(
    x: Float[Array, "batch length heads head_dim"],
    cos: Float[Array, "*batch length half"],
    sin: Float[Array, "*batch length half"],
) -> Float[Array, "batch length heads head_dim"]:
    """Rotates channel pairs (i, i + head_dim / 2) of `x` by their angles, in float32.

    The angles are those of all windows, or of each one its own.
    """
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    cos, sin = cos[..., None, :], sin[..., None, :]
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x.dtype)
