"""How much of each block to prune."""

from jprune.allocate.allocators import ALLOCATORS, STATISTICAL, allocate
from jprune.allocate.shift import reach_total

__all__ = ["ALLOCATORS", "STATISTICAL", "allocate", "reach_total"]
