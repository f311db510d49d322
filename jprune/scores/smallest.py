"""Exactly so many of the smallest entries, without sorting.

A float that is not negative orders as its bits do. The k-th smallest is therefore found one bit at
a time, by counting how many entries are less: 31 passes over the data, whatever k is. Among equals
the earlier index is taken, which is found the same way.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jprune.llama.kernels import ArrayLike

_BITS = 31


def kth_smallest(
    values: Sequence[Float[ArrayLike, "..."]], k: Int[ArrayLike, ""] | int
) -> Float[Array, ""]:
    """The k-th smallest, from 1 on, of all entries of several arrays.

    Args:
      values: not negative, float32.
      k: at most as many as there are entries.
    """
    bits = [_bits(x) for x in values]

    def less(bound):
        return sum(jnp.sum(x < bound, dtype=jnp.int32) for x in bits)

    found = _largest(lambda bound: less(bound) < k, jnp.zeros((), jnp.int32), _BITS)
    return jax.lax.bitcast_convert_type(found, jnp.float32)


def smallest(
    values: Float[ArrayLike, "rows columns"],
    count: Int[ArrayLike, ""] | int,
    axis: int | None = None,
    order: Int[ArrayLike, "rows columns"] | None = None,
) -> Bool[Array, "rows columns"]:
    """True at the `count` smallest entries; among equals at the earlier ones.

    Args:
      values: not negative, float32; NaN counts as larger than all numbers.
      count: how many, at most as many as there are entries (along `axis`).
      axis: along which to select; None for the whole matrix.
      order: a number for each entry that says which of equals is earlier; by default its index
        along `axis`, in the whole matrix the one that it has where columns come after one another:
        that of a kernel [in, out] as Hugging Face stores it.
    """
    bits = _bits(values)
    shape = bits.shape
    axes = (0, 1) if axis is None else (axis,)
    if order is None:
        row, column = (jax.lax.broadcasted_iota(jnp.int32, shape, d) for d in (0, 1))
        order = column * shape[0] + row if axis is None else (row, column)[axis]
    start = jnp.zeros([1 if d in axes else n for d, n in enumerate(shape)], jnp.int32)

    def number(chosen):
        return jnp.sum(chosen, axes, dtype=jnp.int32, keepdims=True)

    value = _largest(lambda bound: number(bits < bound) < count, start, _BITS)
    below, equal = bits < value, bits == value
    rest = count - number(below)
    end = max(1, bits.size if axis is None else shape[axis]).bit_length()
    cut = _largest(lambda bound: number(equal & (order < bound)) <= rest, start, end)
    return below | (equal & (order < cut))


def _bits(x: Float[ArrayLike, "..."]) -> Int[Array, "..."]:
    """A non-negative float's bits as an integer; every NaN as the largest."""
    bits = jax.lax.bitcast_convert_type(x.astype(jnp.float32), jnp.int32)
    return jnp.where(jnp.isnan(x), jnp.int32(2**31 - 1), bits)


def _largest(
    holds: Callable[[Int[ArrayLike, "..."]], Bool[Array, "..."]],
    start: Int[ArrayLike, "..."],
    bits: int,
) -> Int[Array, "..."]:
    """The largest integer of so many bits for which a falling condition, true at 0, holds."""

    def try_bit(at, bound):
        with_bit = bound | (1 << (bits - 1 - at))
        return jnp.where(holds(with_bit), with_bit, bound)

    return jax.lax.fori_loop(0, bits, try_bit, start)
