"""How good a model is: perplexity on token windows."""

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
from jprune.evaluate.protocol import PROTOCOLS, Protocol, preset

__all__ = [
    "PROTOCOLS",
    "EvaluationSet",
    "Perplexity",
    "Protocol",
    "evaluate_sets",
    "evaluate_sources",
    "evaluation_sets",
    "perplexity",
    "preset",
    "summarise",
    "window_nll",
]
