"""Linear combinations of corresponding tensors of several models."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jprune.llama.kernels import ArrayLike

# Coefficients whose sum is 1 up to their own rounding are taken to add up to 1.
_ROUNDING = 1e-6


def mix_tensors(
    mix: Float[ArrayLike, " sources"],
    tensors: Sequence[Float[ArrayLike, "..."]] | Float[ArrayLike, "sources ..."],
    dtype: Any = None,
) -> Float[Array, "..."]:
    """sum_j c_j x_j in float32, rounded once.

    Computed as (sum c) x_p + sum_j c_j (x_j - x_p), where p has the largest |c|: models that were
    finetuned from one differ little, and such differences are exact or nearly so. Sources that are
    all equal therefore give exactly their value where the coefficients add up to 1, and a single
    coefficient of 1 gives that source bit for bit.

    Args:
      mix: c, a coefficient for each source. A source whose coefficient is 0 does not matter,
        whatever is in it, nor whether it is given at all.
      tensors: x, equal in shape; or one array with them along its first axis.
      dtype: of the result; by default that of the first.
    """
    c = [jnp.asarray(mix[j], jnp.float32) for j in range(len(mix))]
    x = [tensors[j].astype(jnp.float32) for j in range(len(c))]
    size = sum(map(jnp.abs, c))
    total = sum(c)
    total = jnp.where(jnp.abs(total - 1) <= _ROUNDING * size, 1, total)
    largest = jnp.argmax(jnp.abs(jnp.stack(c)))
    pivot = x[0]
    for j in range(1, len(x)):
        pivot = jnp.where(largest == j, x[j], pivot)
    # Selected, not multiplied by 1 and 0: one source alone stays as it is, denormals too. And a sum
    # has one product at most, which leaves no choice of what to fuse: programs round it alike.
    mixed = jnp.where(total == 1, pivot, total * pivot)
    for j in range(len(x)):
        idle = (c[j] == 0) | (largest == j)
        mixed = jnp.where(idle, mixed, mixed + c[j] * (x[j] - pivot))
    return mixed.astype(tensors[0].dtype if dtype is None else dtype)
