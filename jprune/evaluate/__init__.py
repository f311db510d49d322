"""How good a model is: perplexity on token windows, also of models that were never built."""

from jprune.evaluate.perplexity import (
    EvaluationSet,
    Perplexity,
    evaluate_sets,
    evaluate_sources,
    evaluation_sets,
    perplexity,
    summarise,
    window_nll,
)
from jprune.evaluate.plans import Removal
from jprune.evaluate.protocol import PROTOCOLS, Protocol, preset
from jprune.evaluate.stitched import StitchedModels

__all__ = [
    "PROTOCOLS",
    "EvaluationSet",
    "Perplexity",
    "Protocol",
    "Removal",
    "StitchedModels",
    "evaluate_sets",
    "evaluate_sources",
    "evaluation_sets",
    "perplexity",
    "preset",
    "summarise",
    "window_nll",
]
