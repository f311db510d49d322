"""Merging the tensors t_i of several models, finetuned from one whose tensor is t0.

Each function is pure and merges one tensor: from t0 (None for methods that do without), the t_i in
any order unless said otherwise, and options, in float32, rounded once to the dtype of t0, or of t_1
without it. d_i = t_i - t0 are the task vectors. The index of an entry, which decides among equals,
is its place in row-major order; `merge_models` hands over tensors as Hugging Face stores them.
"""

import functools
import math
from collections.abc import Sequence
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from jprune.llama.kernels import ArrayLike
from jprune.llama.mixing import mix_tensors
from jprune.scores.smallest import smallest

Tensor = Float[ArrayLike, "..."]
Result = Float[Array, "..."]
# Options; a factor and t may be traced.
Number = float | int | Float[Array, ""]
# Coefficients of t0, t_1, ... of the methods that are linear in the tensors.
Mix = Float[np.ndarray, " sources"]

# Tensors whose angle is smaller than this are interpolated on the line between them.
_PARALLEL = 0.9995


def linear(
    base: Tensor | None, variants: Sequence[Tensor], weights: Sequence[Number] | None = None
) -> Result:
    """sum w_i t_i / sum w_i.

    Reference: Wortsman et al., Model soups (arXiv 2203.05482), section 2.

    Args:
      base: does not matter.
      variants: t_i.
      weights: w_i; by default all equal.
    """
    return _mixed(linear_mix(len(variants), weights), base, variants)


def slerp(base: Tensor | None, variants: Sequence[Tensor], t: Number = 0.5) -> Result:
    """sin((1 - t) a) / sin(a) t_1 + sin(t a) / sin(a) t_2, a the angle between them, flattened.

    Where |cos a| > 0.9995, or one of them is zero: (1 - t) t_1 + t t_2.

    Reference: Shoemake, Animating rotation with quaternion curves (1985), section 3.3.

    Args:
      base: does not matter.
      variants: t_1 and t_2.
      t: 0 gives the first, 1 the second.
    """
    first, second = map(_wide, variants)
    norms = _norm(first) * _norm(second)
    cosine = jnp.sum(first * second) / jnp.where(norms > 0, norms, 1)
    apart = (norms > 0) & (jnp.abs(cosine) <= _PARALLEL)
    angle = jnp.arccos(jnp.where(apart, cosine, 0))
    # Quotients first: at the ends they are exactly 0 and 1.
    share, rest = (jnp.sin(part * angle) / jnp.sin(angle) for part in (t, 1 - t))
    on_arc = rest * first + share * second
    on_line = mix_tensors(jnp.stack([1 - jnp.float32(t), jnp.float32(t)]), (first, second))
    return _rounded(jnp.where(apart, on_arc, on_line), base, variants)


def task_arithmetic(base: Tensor, variants: Sequence[Tensor], factor: Number = 1.0) -> Result:
    """t0 + factor * sum d_i.

    Reference: Ilharco et al., Editing models with task arithmetic (arXiv 2212.04089), section 2.
    """
    return _mixed(task_arithmetic_mix(len(variants), factor), base, variants)


def ties(base: Tensor, variants: Sequence[Tensor], density: Number, factor: Number = 1.0) -> Result:
    """t0 + factor * the mean of those trimmed d_i that have the elected sign.

    Trimmed d_i keep their n - floor(n (1 - density)) entries of largest magnitude, the later of
    equals, and are zero elsewhere; see `elected_mean` for the rest.

    Reference: Yadav et al., TIES-Merging (arXiv 2306.01708), section 4.

    Args:
      base: t0, with n entries.
      variants: t_i.
      density: share that is kept, in (0, 1].
      factor: scales what is added.
    """
    trimmed = [_where(_largest(d, density), d) for d in _task_vectors(base, variants)]
    return _added(base, variants, factor * elected_mean(trimmed))


def dare(
    base: Tensor,
    variants: Sequence[Tensor],
    density: Number,
    factor: Number = 1.0,
    then: str = "task_arithmetic",
    *,
    key: Key[Array, ""],
) -> Result:
    """Task arithmetic, or TIES without its trimming, on randomly thinned d_i.

    Each entry of each d_i stays with probability `density`, divided by `density`, or is zero.

    Reference: Yu et al., Language models are super Mario (arXiv 2311.03099), section 3.2.

    Args:
      base: t0.
      variants: t_i; which entries stay depends on their order.
      density: in (0, 1].
      factor: scales what is added.
      then: 'task_arithmetic' or 'ties'.
      key: of the random choice.
    """
    thinned = [
        _where(jax.random.bernoulli(jax.random.fold_in(key, i), density, d.shape), d / density)
        for i, d in enumerate(_task_vectors(base, variants))
    ]
    together = elected_mean(thinned) if then == "ties" else _sum(thinned)
    return _added(base, variants, factor * together)


def breadcrumbs(
    base: Tensor,
    variants: Sequence[Tensor],
    density: Number,
    gamma: Number = 0.01,
    factor: Number = 1.0,
) -> Result:
    """t0 + factor * the sum of d_i without their largest and their smallest entries.

    Of the n entries of a d_i, the floor(gamma n) of largest magnitude are zero; of the others the
    n - floor(n (1 - density)) largest stay. Among equals the later counts as larger.

    Reference: Davari and Belilovsky, Model Breadcrumbs (arXiv 2312.06795), section 3.

    Args:
      base: t0.
      variants: t_i.
      density: share that stays, in (0, 1 - gamma].
      gamma: share of outliers.
      factor: scales what is added.
    """

    def between(d: Result) -> Bool[Array, "..."]:
        top = d.size - portion(d.size, gamma)
        bottom = max(0, top - kept_count(d.size, density))
        return _smallest(d, top) & ~_smallest(d, bottom)

    masked = [_where(between(d), d) for d in _task_vectors(base, variants)]
    return _added(base, variants, factor * _sum(masked))


def model_stock(base: Tensor, variants: Sequence[Tensor]) -> Result:
    """t m + (1 - t) t0 with m the mean of the N t_i and t = N c / (1 + (N - 1) c).

    c is the mean cosine of the pairs of d_i, flattened; 1 if any d_i is zero. Where t is infinite,
    which it is only where m is t0, the result is t0.

    Reference: Jang et al., Model Stock (arXiv 2403.19522), section 4.
    """
    vectors, count = _task_vectors(base, variants), len(variants)
    norms = [_norm(d) for d in vectors]
    pairs = [(i, j) for i in range(count) for j in range(i)]
    products = [jnp.sum(vectors[i] * vectors[j]) / (norms[i] * norms[j]) for i, j in pairs]
    any_zero = jnp.any(jnp.stack(norms) == 0)
    cosine = jnp.where(any_zero, 1, sum(products) / len(pairs))
    below = 1 + (count - 1) * cosine
    t = jnp.where(below > 0, count * cosine / below, 0)
    mix = jnp.stack([1 - t, *[t / count] * count])
    return mix_tensors(mix, (base, *variants))


def passthrough(base: Tensor | None, variants: Sequence[Tensor], scale: Number = 1.0) -> Result:
    """scale * t_1.

    Args:
      base: does not matter.
      variants: t_1 alone.
      scale: 1 gives it as it is.
    """
    return _mixed(passthrough_mix(1, scale), base, variants)


def linear_mix(count: int, weights: Sequence[Number] | None = None) -> Mix:
    """The coefficients of `linear` for `count` variants."""
    w = np.asarray([1.0] * count if weights is None else weights, np.float64)
    return np.asarray([0, *w / w.sum()], np.float32)


def task_arithmetic_mix(count: int, factor: Number = 1.0) -> Mix:
    """The coefficients of `task_arithmetic` for `count` variants."""
    return np.asarray([1 - count * factor, *[factor] * count], np.float32)


def passthrough_mix(count: int, scale: Number = 1.0) -> Mix:
    """The coefficients of `passthrough`, for the one variant that it takes."""
    return np.asarray([0, *[scale] * count], np.float32)


def elected_mean(deltas: Sequence[Float[Array, "..."]]) -> Float[Array, "..."]:
    """Entry by entry, the mean of those d_i that have the elected sign; 0 where none has.

    Elected is the sign of sum d_i. Where that is 0, it is the sign of the total of all elected
    signs of the tensor.
    """
    sign = jnp.sign(_sum(deltas)).astype(jnp.int32)
    sign = jnp.where(sign == 0, jnp.sign(jnp.sum(sign)), sign)
    agree = [jnp.sign(d).astype(jnp.int32) * sign > 0 for d in deltas]
    number = _sum([x.astype(jnp.int32) for x in agree])
    return _sum(list(map(_where, agree, deltas))) / jnp.maximum(number, 1)


def kept_count(size: int, density: Number) -> int:
    """n - floor(n (1 - density)), exact in the decimal digits of `density`."""
    return size - math.floor(size * (1 - _exact(density)))


def portion(size: int, share: Number) -> int:
    """floor(n share), exact in the decimal digits of `share`."""
    return math.floor(size * _exact(share))


def _exact(share: Number) -> Fraction:
    return Fraction(float(share)).limit_denominator(10**9)


def _mixed(mix: Mix, base: Tensor | None, variants: Sequence[Tensor]) -> Result:
    if base is None:
        return mix_tensors(mix[1:], variants)
    return mix_tensors(mix, (base, *variants))


def _task_vectors(base: Tensor, variants: Sequence[Tensor]) -> list[Float[Array, "..."]]:
    return [_wide(x) - _wide(base) for x in variants]


def _added(base: Tensor, variants: Sequence[Tensor], delta: Float[Array, "..."]) -> Result:
    return _rounded(_wide(base) + delta, base, variants)


def _rounded(x: Float[Array, "..."], base: Tensor | None, variants: Sequence[Tensor]) -> Result:
    return x.astype(variants[0].dtype if base is None else base.dtype)


def _largest(d: Float[Array, "..."], density: Number) -> Bool[Array, "..."]:
    return ~_smallest(d, d.size - kept_count(d.size, density))


def _smallest(d: Float[Array, "..."], count: int) -> Bool[Array, "..."]:
    """The `count` entries of smallest magnitude; among equals the earlier in row-major order."""
    matrix = jnp.abs(d) if d.ndim == 2 else jnp.abs(d).reshape(1, -1)
    # `smallest` goes through a matrix column by column.
    return smallest(matrix.T, count).T.reshape(d.shape)


def _where(mask: Bool[Array, "..."], x: Float[Array, "..."]) -> Float[Array, "..."]:
    return jnp.where(mask, x, 0)


def _sum(tensors: Sequence[Array]) -> Array:
    return functools.reduce(jnp.add, tensors)


def _wide(x: Tensor) -> Float[Array, "..."]:
    return jnp.asarray(x, jnp.float32)


def _norm(x: Float[Array, "..."]) -> Float[Array, ""]:
    return jnp.sqrt(jnp.sum(x * x))
