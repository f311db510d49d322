"""How much each block or sublayer matters: lower scores are removed first."""

from jprune.scores.criteria import CRITERIA, DATA_FREE, options_of, score
from jprune.scores.result import Scores, rank, select
from jprune.scores.units import (
    GRANULARITIES,
    Unit,
    is_present,
    parse_layers,
    present,
    units,
)

__all__ = [
    "CRITERIA",
    "DATA_FREE",
    "GRANULARITIES",
    "Scores",
    "Unit",
    "is_present",
    "options_of",
    "parse_layers",
    "present",
    "rank",
    "score",
    "select",
    "units",
]
