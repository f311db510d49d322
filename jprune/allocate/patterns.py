"""How many of each M consecutive weights stay in each block, under one total."""

import numpy as np
from jaxtyping import Float, Real

from jprune.core.errors import InputError
from jprune.scores.masks import Pattern


def layerwise_patterns(
    density: Float[np.ndarray, " blocks"], sizes: Real[np.ndarray, " blocks"], pattern: Pattern
) -> list[Pattern]:
    """N_l:M for every block, with sum n_l N_l / M at most sum n_l N / M and near to it.

    N_l is d_l M rounded down, or up where that was cut off most (the largest remainders first, of
    equals the earlier block), and from 1 to M; then one more, in the same order, for as long as a
    block is small enough for what is left. Where all blocks are equally large, the total is met
    exactly; else this is greedy, and may miss a better sum.

    Args:
      density: d, such that sum n_l d_l = N / M sum n_l; see `reach_total`.
      sizes: n, the weights of each block.
      pattern: N:M of the whole.

    Raises:
      InputError: densities that N:M does not give in all.
    """
    density, sizes = np.asarray(density, np.float64), np.asarray(sizes, np.float64)
    wanted = pattern.keep * sizes.sum()
    if abs((density * sizes).sum() * pattern.of - wanted) > 1e-6 * wanted:
        kept = (density * sizes).sum() / sizes.sum()
        raise InputError(
            f"the densities keep {kept:.4g} of the weights, pattern {pattern} keeps "
            f"{pattern.keep / pattern.of:.4g}; give a sparsity of {1 - pattern.keep / pattern.of:g}"
        )
    exact = density * pattern.of
    # A rounding error of the product is no remainder.
    counts = np.clip(np.floor(exact + 1e-9), 1, pattern.of).astype(int)
    _lower(counts, exact, sizes, wanted)
    room = wanted - (counts * sizes).sum()
    while True:
        fits = (sizes <= room * (1 + 1e-12)) & (sizes > 0) & (counts < pattern.of)
        if not fits.any():
            break
        index = min(np.flatnonzero(fits), key=lambda i: counts[i] - exact[i])
        counts[index] += 1
        room -= sizes[index]
    return [Pattern(int(count), pattern.of) for count in counts]


def _lower(counts, exact, sizes, wanted) -> None:
    """Takes from the blocks that are most above what they were to keep, until the total fits.

    They are above it only because every block keeps at least 1 of M.
    """
    while (counts * sizes).sum() > wanted * (1 + 1e-12):
        index = max(np.flatnonzero(counts > 1), key=lambda i: counts[i] - exact[i])
        counts[index] -= 1
