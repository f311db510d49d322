"""Densities that keep exactly as many weights as were asked for."""

import numpy as np
from jaxtyping import Float, Real


def reach_total(
    density: Float[np.ndarray, " blocks"],
    sizes: Real[np.ndarray, " blocks"],
    sparsity: float,
) -> Float[np.ndarray, " blocks"]:
    """clip(d + c, 0, 1), where c is such that sum n clip(d + c, 0, 1) = (1 - sparsity) sum n.

    Args:
      density: d, the wanted densities, also outside [0, 1].
      sizes: n, the weights of each block.
      sparsity: of all blocks together.
    """
    density, sizes = np.asarray(density, np.float64), np.asarray(sizes, np.float64)
    wanted = (1 - sparsity) * sizes.sum()
    # The sum rises with c along straight lines that bend where a block reaches 0 or 1.
    bends = np.unique(np.concatenate([-density, 1 - density]))
    kept = (sizes * np.clip(density + bends[:, None], 0, 1)).sum(axis=1)
    return np.clip(density + np.interp(wanted, kept, bends), 0, 1)
