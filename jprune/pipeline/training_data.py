"""What a model is retrained on: packed documents, instructions, or token ids as they are."""

from jprune.checkpoints import Tokenizer
from jprune.core.errors import InputError
from jprune.data import (
    Source,
    TrainingSet,
    documents,
    instruction_rows,
    instruction_set,
    packed_documents,
    token_windows,
)


def training_set(
    source: Source,
    tokenizer: Tokenizer | None,
    length: int,
    most: int | None = None,
    loss: str = "all",
) -> TrainingSet:
    """The windows of a source.

    Instructions have a window each (`jprune.data.instruction_set`), other documents are packed
    (`jprune.data.packed_documents`), token ids are used as they are, whatever their length.

    Args:
      source: of text, instructions or token ids.
      tokenizer: of the model.
      length: tokens per window.
      most: at most so many windows, the first; None for all.
      loss: what counts of instructions: all, or answer.

    Raises:
      InputError: there is text and no tokenizer, the source cannot be read, or the loss is of the
        answer and there are no instructions.
    """
    if source.is_tokens and loss == "all":
        return TrainingSet.of(token_windows(source)[:most])
    if source.is_tokens:
        raise InputError(
            f"{source.text} holds token ids, so answers cannot be told apart: give instructions, "
            "or --config.retrain.loss=all"
        )
    if tokenizer is None:
        raise InputError(
            f"the model has no tokenizer, so {source.text} cannot be tokenised; "
            "give token ids (file.npz:key) or a model folder with tokenizer.json"
        )
    if loss != "all" or _has_instructions(source):
        return instruction_set(instruction_rows(source), tokenizer, length, most, loss)
    return packed_documents(documents(source), tokenizer, length, most)


def evenly(windows: TrainingSet, most: int) -> TrainingSet:
    """At most `most` (1 or more) windows, evenly spread: every k-th."""
    every = max(1, -(-len(windows) // most))
    segments = None if windows.segments is None else windows.segments[::every]
    return TrainingSet(windows.ids[::every], windows.mask[::every], segments)


def _has_instructions(source: Source) -> bool:
    """Whether the first row is an instruction with its answer."""
    try:
        next(instruction_rows(source), None)
    except InputError:  # reading it as documents says what is wrong, if anything is
        return False
    return True
