"""Densities per block for a total sparsity: uniform, on a line, OWL, DLP, a file's, the user's own.

References: Yin et al., OWL (arXiv 2310.05175), section 4.2; DLP (arXiv 2505.23807), section 3.2.
"""

import inspect
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float

from jprune.allocate.shift import reach_total
from jprune.core.errors import InputError, unknown
from jprune.core.files import as_path, read_json
from jprune.core.plugins import find_function
from jprune.scores.weight_stats import WeightStats

Densities = Float[np.ndarray, " blocks"]


def uniform(stats: WeightStats, sparsity: float) -> Densities:
    """1 - p for every block."""
    return np.full(len(stats.sizes), 1 - sparsity)


def linear_depth(stats: WeightStats, sparsity: float, *, alpha: float = 0.15) -> Densities:
    """From 1 - p + alpha in the first block along a line to 1 - p - alpha in the last."""
    return 1 - sparsity + np.linspace(alpha, -alpha, len(stats.sizes))


def owl(stats: WeightStats, sparsity: float, *, lam: float = 0.08) -> Densities:
    """minmax(D) * 2 lam around 1 - p, D the percentage of A above M times its mean."""
    return _around(stats.outliers, 2 * lam, sparsity)


def dlp(
    stats: WeightStats, sparsity: float, *, alpha: float = 0.15, reduce: str = "mean"
) -> Densities:
    """minmax(I) * 2 alpha around 1 - p, I = 1 - S / sum S; S the mean or median of A.

    Raises:
      InputError: another `reduce`.
    """
    if reduce not in ("mean", "median"):
        raise unknown("reduction", reduce, ("mean", "median"))
    s = np.asarray(getattr(stats, reduce), np.float64)
    return _around(1 - s / s.sum(), 2 * alpha, sparsity)


ALLOCATORS: MappingProxyType[str, Callable[..., Densities]] = MappingProxyType(
    {function.__name__: function for function in (uniform, linear_depth, owl, dlp)}
)
# Those that read statistics of the weights and inputs.
STATISTICAL = ("owl", "dlp")


def allocate(allocator: str, stats: WeightStats, sparsity: float, **options: Any) -> Densities:
    """The density of every block, such that the blocks together have `sparsity`.

    Args:
      allocator: a name of `ALLOCATORS`; the path of a JSON file with a number per block; or
        'module:function', which is called with (stats, sparsity, **options).
      stats: of the dense model; only `sizes` counts for allocators not in `STATISTICAL`.
      sparsity: of all blocks together, in [0, 1).
      **options: of the allocator.

    Raises:
      InputError: an unknown allocator or option, a sparsity outside [0, 1), or not one finite
        number per block.
    """
    if not 0 <= sparsity < 1:
        raise InputError(f"sparsity {sparsity} is outside [0, 1); 0.7 prunes 70% of the weights")
    density = np.asarray(_wanted(allocator, stats, sparsity, options), np.float64)
    if density.shape != stats.sizes.shape:
        raise InputError(f"{allocator} gave {density.size} densities for {len(stats.sizes)} blocks")
    if not np.isfinite(density).all():
        raise InputError(f"{allocator} gave densities that are not finite: {density.tolist()}")
    return reach_total(density, stats.sizes, sparsity)


def sizes_only(sizes: Sequence[int]) -> WeightStats:
    """Statistics of which nothing is known but the weights of each block."""
    unknown_values = np.full(len(sizes), np.nan)
    return WeightStats(unknown_values, unknown_values, unknown_values, np.asarray(sizes))


def options_of(allocator: str) -> tuple[str, ...] | None:
    """The options of an allocator; None for one of the user's own.

    Raises:
      InputError: there is none of that name.
    """
    if allocator in ALLOCATORS:
        return tuple(inspect.signature(ALLOCATORS[allocator]).parameters)[2:]
    if is_own(allocator):
        find_function(allocator, "allocation")
        return None
    if not allocator.endswith(".json"):
        raise unknown("allocation", allocator, ALLOCATORS)
    return ()


def is_own(allocator: str) -> bool:
    """Whether it is a function of the user's; paths such as gs://... have colons too."""
    return ":" in allocator and not allocator.endswith(".json")


def _wanted(allocator: str, stats: WeightStats, sparsity: float, options: dict[str, Any]) -> Any:
    accepted = options_of(allocator)
    for option in options:
        if accepted is not None and option not in accepted:
            raise unknown(f"option of {allocator}", option, accepted)
    if allocator in ALLOCATORS:
        return ALLOCATORS[allocator](stats, sparsity, **options)
    if allocator.endswith(".json"):
        return _from_file(allocator)
    return find_function(allocator, "allocation")(stats, sparsity, **options)


def _from_file(path: str) -> list[float]:
    """A list of densities, or what a run wrote: {"density": [...], ...}."""
    given = read_json(as_path(path))
    given = given.get("density") if isinstance(given, dict) else given
    if not isinstance(given, list) or not all(type(x) in (int, float) for x in given):
        raise InputError(f"{path} should hold a list with a density for each block")
    return given


def _around(values: Densities, width: float, sparsity: float) -> Densities:
    """`values` stretched over `width` and moved to the mean 1 - sparsity."""
    spread = np.ptp(values)
    scaled = width * (values - values.min()) / spread if spread else np.zeros_like(values)
    return scaled - scaled.mean() + 1 - sparsity
