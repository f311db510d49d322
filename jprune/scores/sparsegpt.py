"""SparseGPT: masks and new weights that make up for what was pruned.

Reference: Frantar and Alistarh, SparseGPT (arXiv 2301.00774), algorithm 1.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jprune.core.errors import InputError
from jprune.core.progress import log
from jprune.llama.kernels import ArrayLike
from jprune.scores.masks import Pattern, pattern_mask, pruned_count
from jprune.scores.smallest import smallest

DAMPING = 0.01  # of the mean of the Hessian's diagonal
MAX_DAMPING = 1.0
COLUMNS = 128  # inputs per block
_HIGHEST = jax.lax.Precision.HIGHEST

Kernels = tuple[Float[ArrayLike, "in _"], ...]


def sparsegpt(
    kernels: Kernels,
    hessian: Float[ArrayLike, "in in"],
    sparsity: float,
    pattern: Pattern | None = None,
    name: str = "a matrix",
) -> tuple[Kernels, tuple[Bool[Array, "in _"], ...]]:
    """New kernels with exact zeros, and their masks, for linears that read the same input.

    In blocks of 128 inputs the `sparsity` share of W^2 / diag(U)^2 that is smallest goes, where
    H^-1 = U^T U; going through the inputs in order, the error of each is made up for by those
    after it. With a pattern N:M the choice is made at every M-th input among the next M.

    Args:
      kernels: W of each linear; their dtype is kept, the arithmetic is float32.
      hessian: H = 2 / windows * sum of X^T X.
      sparsity: share that goes in each block of each matrix; not used with a pattern.
      pattern: N:M.
      name: of the linears, for messages.

    Raises:
      InputError: a Hessian that is not finite, or not positive definite even with much damping.
    """
    inputs = hessian.shape[0]
    columns = COLUMNS if pattern is None else max(1, COLUMNS // pattern.of) * pattern.of
    dead = jnp.diagonal(hessian) == 0
    factor = inverse_factor(hessian, name)
    weights = tuple(jnp.where(dead[:, None], 0, w.astype(jnp.float32)) for w in kernels)
    last = inputs % columns or columns  # inputs in the last block
    counts = [
        [pruned_count(rows * w.shape[1], sparsity) for w in kernels] for rows in (columns, last)
    ]
    found, masks = _prune(
        weights, factor, jnp.asarray(counts, jnp.int32), pattern, min(columns, inputs)
    )
    return tuple(w.astype(k.dtype) for w, k in zip(found, kernels, strict=True)), masks


def inverse_factor(hessian: Float[ArrayLike, "in in"], name: str) -> Float[Array, "in in"]:
    """U, upper triangular, with (H + damping)^-1 = U^T U.

    Inputs that are always zero get 1 on the diagonal. Damping is 0.01 of the mean of the diagonal,
    and ten times as much for as long as the result is not positive definite.

    Raises:
      InputError: see `sparsegpt`.
    """
    if not bool(jnp.isfinite(hessian).all()):
        raise InputError(
            f"the inputs of {name} are not finite on the calibration data; try --dtype=float32"
        )
    damping = DAMPING
    while damping <= MAX_DAMPING:
        factor = _factor(hessian, damping)
        if bool(jnp.isfinite(factor).all()):
            return factor
        log.warning(
            "the Hessian of %s is not positive definite: damping %g, ten times as much",
            name,
            10 * damping,
        )
        damping *= 10
    raise InputError(
        f"the Hessian of {name} is not positive definite even with damping {MAX_DAMPING:g}; "
        "use more calibration windows"
    )


@jax.jit
def _factor(
    hessian: Float[ArrayLike, "in in"], damping: Float[Array, ""] | float
) -> Float[Array, "in in"]:
    # With P the reversal and P H P = L L^T, H^-1 = (P L^-1 P)^T (P L^-1 P): one Cholesky.
    diagonal = jnp.diagonal(hessian)
    diagonal = jnp.where(diagonal == 0, 1, diagonal)
    size = hessian.shape[0]
    damped = jnp.where(jnp.eye(size, dtype=bool), diagonal + damping * diagonal.mean(), hessian)
    lower = jnp.linalg.cholesky(damped[::-1, ::-1])
    with jax.default_matmul_precision("highest"):
        inverse = jax.scipy.linalg.solve_triangular(lower, jnp.eye(size), lower=True)
    return inverse[::-1, ::-1]


@partial(jax.jit, static_argnames=("pattern", "columns"))
def _prune(
    weights: Kernels,
    factor: Float[ArrayLike, "in in"],
    counts: Int[ArrayLike, "2 matrices"],
    pattern: Pattern | None,
    columns: int,
) -> tuple[Kernels, tuple[Bool[Array, "in _"], ...]]:
    inputs, widths = factor.shape[0], [w.shape[1] for w in weights]
    bounds = [sum(widths[:i]) for i in range(len(widths) + 1)]
    blocks = -(-inputs // columns)
    pad = blocks * columns - inputs
    # Inputs that are filled up change nothing: their weights are 0, and U is 1 there.
    w = jnp.pad(jnp.concatenate(weights, axis=1), ((0, pad), (0, 0)))
    factor = jnp.pad(factor, ((0, pad), (0, pad)))
    factor = jnp.where(jnp.eye(len(w), dtype=bool) & (jnp.arange(len(w)) >= inputs), 1, factor)
    matrices = [slice(a, b) for a, b in zip(bounds, bounds[1:], strict=False)]
    group = columns if pattern is None else pattern.of

    def choose(saliency, at, first):
        """Where weights go, of `group` inputs from `first` of the block that begins at `at`."""
        if pattern is not None:
            return ~pattern_mask(saliency, pattern.keep, pattern.of)
        is_last = (at == blocks - 1).astype(jnp.int32)
        there = at * columns + jnp.arange(columns) < inputs
        saliency = jnp.where(there[:, None], saliency, jnp.inf)
        return jnp.concatenate(
            [smallest(saliency[:, m], counts[is_last, i]) for i, m in enumerate(matrices)], axis=1
        )

    def prune_block(at, carry):
        w, mask = carry
        first = at * columns
        rows = jax.lax.dynamic_slice_in_dim(w, first, columns)
        u_rows = jax.lax.dynamic_slice_in_dim(factor, first, columns)
        u = jax.lax.dynamic_slice_in_dim(u_rows, first, columns, axis=1)

        def prune_group(number, inner):
            rows, gone, errors = inner
            start = number * group
            part = jax.lax.dynamic_slice_in_dim(rows, start, group)
            diagonal = jax.lax.dynamic_slice_in_dim(jnp.diagonal(u), start, group)
            chosen = choose(jnp.square(part) / jnp.square(diagonal)[:, None], at, start)
            gone = jax.lax.dynamic_update_slice_in_dim(gone, chosen, start, axis=0)

            def prune_input(offset, state):
                rows, errors = state
                i = start + offset
                row = rows[i]
                error = jnp.where(chosen[offset], row, 0) / u[i, i]
                # U is upper triangular: inputs before i are left as they are.
                rows = rows - u[i][:, None] * error
                return rows.at[i].set(jnp.where(chosen[offset], 0, row)), errors.at[i].set(error)

            rows, errors = jax.lax.fori_loop(0, group, prune_input, (rows, errors))
            return rows, gone, errors

        state = (rows, jnp.zeros(rows.shape, bool), jnp.zeros_like(rows))
        rows, gone, errors = jax.lax.fori_loop(0, columns // group, prune_group, state)
        w = w - jnp.matmul(u_rows.T, errors, precision=_HIGHEST)
        w = jax.lax.dynamic_update_slice_in_dim(w, rows, first, axis=0)
        return w, jax.lax.dynamic_update_slice_in_dim(mask, ~gone, first, axis=0)

    w, mask = jax.lax.fori_loop(0, blocks, prune_block, (w, jnp.ones(w.shape, bool)))
    return (
        tuple(w[:inputs, m] for m in matrices),
        tuple(mask[:inputs, m] for m in matrices),
    )
