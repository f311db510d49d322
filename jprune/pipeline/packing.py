"""Whole documents packed end to end into windows of equal length, for training."""

from collections.abc import Iterable

import numpy as np
from jaxtyping import Int

from jprune.checkpoints import Tokenizer
from jprune.core.errors import InputError
from jprune.data import Source, documents, token_windows


def training_windows(
    source: Source, tokenizer: Tokenizer | None, length: int, most: int | None = None
) -> Int[np.ndarray, "windows length"]:
    """The `document_windows` of a source; token ids are used as they are, whatever their length.

    Raises:
      InputError: there is text and no tokenizer, or the source cannot be read.
    """
    if source.is_tokens:
        return token_windows(source)[:most]
    if tokenizer is None:
        raise InputError(
            f"the model has no tokenizer, so {source.text} cannot be tokenised; "
            "give token ids (file.npz:key) or a model folder with tokenizer.json"
        )
    return document_windows(documents(source), tokenizer, length, most)


def document_windows(
    texts: Iterable[str], tokenizer: Tokenizer, length: int, most: int | None = None
) -> Int[np.ndarray, "windows length"]:
    """Consecutive windows of the documents' ids, each between its BOS and EOS, end to end.

    A partial window at the end is dropped.

    Args:
      texts: the documents; no more of them are read than `most` windows take.
      tokenizer: one without BOS or EOS puts nothing in their places.
      length: tokens per window.
      most: at most so many windows; None for all.
    """
    bos = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    eos = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    parts = [np.zeros(0, np.int32)]
    size = 0
    for text in texts:
        parts.append(np.array(bos + tokenizer.encode(text) + eos, np.int32))
        size += len(parts[-1])
        if most is not None and size >= most * length:
            break
    ids = np.concatenate(parts)
    return ids[: len(ids) // length * length].reshape(-1, length)[:most]


def spread(windows: Int[np.ndarray, "windows length"], most: int) -> Int[np.ndarray, "some length"]:
    """At most `most` (1 or more) windows, evenly spread: every k-th."""
    return windows[:: max(1, -(-len(windows) // most))]
