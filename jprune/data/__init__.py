"""Text to token windows: data sources, calibration sampling, evaluation streams."""

from jprune.data.instructions import alpaca_document, alpaca_prompt
from jprune.data.known import KNOWN
from jprune.data.packing import (
    document_windows,
    instruction_set,
    packed_documents,
    spread,
    training_windows,
)
from jprune.data.sources import (
    Source,
    documents,
    find_source,
    instruction_rows,
    token_windows,
)
from jprune.data.training_set import TrainingSet
from jprune.data.windows import (
    SAMPLES,
    Tokenizer,
    calibration_windows,
    check_vocabulary,
    evaluation_windows,
)

__all__ = [
    "KNOWN",
    "SAMPLES",
    "Source",
    "Tokenizer",
    "TrainingSet",
    "alpaca_document",
    "alpaca_prompt",
    "calibration_windows",
    "check_vocabulary",
    "document_windows",
    "documents",
    "evaluation_windows",
    "find_source",
    "instruction_rows",
    "instruction_set",
    "packed_documents",
    "spread",
    "token_windows",
    "training_windows",
]
