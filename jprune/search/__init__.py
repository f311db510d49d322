"""Which combination of transforms is best: studies of candidates on rungs of data."""

from jprune.search.candidates import Candidate, Mix
from jprune.search.objectives import Objective
from jprune.search.result import SearchResult, TrialRow
from jprune.search.rungs import Rungs
from jprune.search.settings import SAMPLERS, SearchSettings
from jprune.search.space import DropSpace, Space, StitchSpace
from jprune.search.study import EvaluationError, run_study
from jprune.search.warm_starts import warm_starts

__all__ = [
    "SAMPLERS",
    "Candidate",
    "DropSpace",
    "EvaluationError",
    "Mix",
    "Objective",
    "Rungs",
    "SearchResult",
    "SearchSettings",
    "Space",
    "StitchSpace",
    "TrialRow",
    "run_study",
    "warm_starts",
]
