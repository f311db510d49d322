"""How fast and how large: seconds, model FLOP utilisation and memory, beside their limits."""

from jprune.core.devices import peak_flops
from jprune.measure.ceilings import Ceilings, measure_ceilings
from jprune.measure.compilations import compilations
from jprune.measure.devices import peak_bytes
from jprune.measure.generate import generate_jobs
from jprune.measure.masks import mask_jobs
from jprune.measure.retrain import retrain_jobs
from jprune.measure.scores import score_jobs
from jprune.measure.search import search_jobs
from jprune.measure.shapes import SHAPES, Shape, shape_named
from jprune.measure.timing import Job, Measurement, measure

__all__ = [
    "SHAPES",
    "Ceilings",
    "Job",
    "Measurement",
    "Shape",
    "compilations",
    "generate_jobs",
    "mask_jobs",
    "measure",
    "measure_ceilings",
    "peak_bytes",
    "peak_flops",
    "retrain_jobs",
    "score_jobs",
    "search_jobs",
    "shape_named",
]
