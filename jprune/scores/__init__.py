"""How much each block, sublayer or weight matters: what scores least is removed first."""

from jprune.scores.criteria import CRITERIA, DATA_FREE, options_of, score
from jprune.scores.result import Scores, rank, select
from jprune.scores.sparsify import MASK_CRITERIA, Sparse, sparsify
from jprune.scores.units import (
    GRANULARITIES,
    Unit,
    is_present,
    parse_layers,
    present,
    units,
)
from jprune.scores.weight_stats import WeightStats, weight_stats
from jprune.scores.width import Widths, choose_widths

__all__ = [
    "CRITERIA",
    "DATA_FREE",
    "GRANULARITIES",
    "MASK_CRITERIA",
    "Scores",
    "Sparse",
    "Unit",
    "WeightStats",
    "Widths",
    "choose_widths",
    "is_present",
    "options_of",
    "parse_layers",
    "present",
    "rank",
    "score",
    "select",
    "sparsify",
    "units",
    "weight_stats",
]
