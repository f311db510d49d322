"""How much of each block to prune."""

from jprune.allocate.allocators import (
    ALLOCATORS,
    STATISTICAL,
    allocate,
    is_own,
    options_of,
    sizes_only,
)
from jprune.allocate.patterns import layerwise_patterns
from jprune.allocate.shift import reach_total

__all__ = [
    "ALLOCATORS",
    "STATISTICAL",
    "allocate",
    "is_own",
    "layerwise_patterns",
    "options_of",
    "reach_total",
    "sizes_only",
]
