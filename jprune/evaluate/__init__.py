"""How good a model is: perplexity, also of models that were never built, and the text it writes."""

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
from jprune.evaluate.samples import Sample, generate_texts, prompt_ids
from jprune.evaluate.stitched import StitchedModels

__all__ = [
    "PROTOCOLS",
    "EvaluationSet",
    "Perplexity",
    "Protocol",
    "Removal",
    "Sample",
    "StitchedModels",
    "evaluate_sets",
    "evaluate_sources",
    "evaluation_sets",
    "generate_texts",
    "perplexity",
    "preset",
    "prompt_ids",
    "summarise",
    "window_nll",
]
