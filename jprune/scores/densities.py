"""The share of each block that stays, as it is given."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from jprune.core.errors import InputError

Density = Sequence[float] | Float[np.ndarray, " blocks"] | float


def per_block(density: Density, layers: int) -> Float[np.ndarray, " blocks"]:
    """A density for every one of `layers` blocks; a single number is for all.

    Raises:
      InputError: another number of them, or one outside [0, 1].
    """
    densities = np.asarray(density, np.float64)
    densities = np.full(layers, densities) if densities.ndim == 0 else densities
    if densities.shape != (layers,):
        raise InputError(f"{densities.size} densities for a model of {layers} blocks")
    if not ((densities >= 0) & (densities <= 1)).all():
        raise InputError(f"densities lie in [0, 1], not {densities.tolist()}")
    return densities
