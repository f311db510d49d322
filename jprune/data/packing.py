"""Text to windows for training: documents packed end to end, or one instruction a window."""

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from jaxtyping import Int

from jprune.core import InputError, log, unknown
from jprune.data.instructions import alpaca_document, alpaca_prompt
from jprune.data.sources import Source, documents, token_windows
from jprune.data.training_set import TrainingSet
from jprune.data.windows import Tokenizer

# What of an instruction counts in the loss: prompt and answer, or the answer alone.
LOSSES = ("all", "answer")


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
    """The ids of `packed_documents`, for models that read documents as one stream."""
    return packed_documents(texts, tokenizer, length, most).ids


def packed_documents(
    texts: Iterable[str], tokenizer: Tokenizer, length: int, most: int | None = None
) -> TrainingSet:
    """Consecutive windows of the documents' ids, each between its BOS and EOS, end to end.

    What does not fit in a window goes on in the next, as a document of that window. A partial
    window at the end is dropped. Every token counts.

    Args:
      texts: the documents; no more of them are read than `most` windows take, and no more than one
        is held.
      tokenizer: one without BOS or EOS puts nothing in their places.
      length: tokens per window.
      most: at most so many windows; None for all.
    """
    size = None if most is None else most * length
    ids, numbers = [np.zeros(0, np.int32)], [np.zeros(0, np.int32)]
    held = 0
    for number, document in enumerate(_encoded(texts, tokenizer) if size != 0 else (), 1):
        ids.append(document)
        numbers.append(np.full(len(document), number, np.int32))
        held += len(document)
        if size is not None and held >= size:
            break
    kept = min(held if size is None else size, held) // length * length
    packed, segments = (np.concatenate(x)[:kept].reshape(-1, length) for x in (ids, numbers))
    if kept:
        # From 1 on in every window; documents without a token leave no gap that matters.
        segments = segments - segments[:, :1] + 1
    return TrainingSet(packed, np.ones(packed.shape, bool), segments)


def instruction_set(
    rows: Iterable[Mapping[str, str]],
    tokenizer: Tokenizer,
    length: int,
    most: int | None = None,
    loss: str = "all",
) -> TrainingSet:
    """One instruction with its answer a window, in Alpaca's template, between BOS and EOS.

    Longer ones are cut at the end, shorter ones padded. Under the loss `answer` a token counts from
    the first on that is not the prompt's own, EOS included; instructions whose answer is wholly cut
    off are passed over.

    Args:
      rows: with `instruction`, `output` and perhaps `input`, such as those of
        `jprune.data.instruction_rows`; no more of them are read than `most` windows take.
      tokenizer: one without BOS or EOS puts nothing in their places.
      length: tokens per window.
      most: at most so many windows; None for all.
      loss: `all` or `answer`: what counts.

    Reference: Taori et al., Stanford Alpaca (github.com/tatsu-lab/stanford_alpaca).

    Raises:
      InputError: another loss.
    """
    if loss not in LOSSES:
        raise unknown("loss", loss, LOSSES)
    taken: list[tuple[np.ndarray, int]] = []
    skipped = 0
    for row in rows if most != 0 else ():
        prompt = alpaca_prompt(row["instruction"], row.get("input") or "")
        ids = np.array(_ids(alpaca_document(row), tokenizer, end=True), np.int32)
        first = _common(ids, _ids(prompt, tokenizer)) if loss == "answer" else 0
        if first >= length:
            skipped += 1
            continue
        taken.append((ids[:length], first))
        if len(taken) == most:
            break
    if skipped:
        log.info("passed over %d instructions that fill %d tokens by themselves", skipped, length)
    ids, mask, segments = (np.zeros((len(taken), length), d) for d in (np.int32, bool, np.int32))
    for place, (row_ids, first) in enumerate(taken):
        ids[place, : len(row_ids)] = row_ids
        mask[place, first : len(row_ids)] = True
        segments[place, : len(row_ids)] = 1
    return TrainingSet(ids, mask, segments)


def spread(windows: Int[np.ndarray, "windows length"], most: int) -> Int[np.ndarray, "some length"]:
    """At most `most` (1 or more) windows, evenly spread: every k-th."""
    return windows[:: max(1, -(-len(windows) // most))]


def _encoded(texts: Iterable[str], tokenizer: Tokenizer) -> Iterator[Int[np.ndarray, " tokens"]]:
    for text in texts:
        yield np.array(_ids(text, tokenizer, end=True), np.int32)


def _ids(text: str, tokenizer: Tokenizer, end: bool = False) -> list[int]:
    """BOS, the ids of a text, and EOS at its end."""
    bos, eos = (getattr(tokenizer, f"{kind}_token_id", None) for kind in ("bos", "eos"))
    return [
        *([] if bos is None else [bos]),
        *tokenizer.encode(text, add_special_tokens=False),
        *([] if eos is None or not end else [eos]),
    ]


def _common(ids: Int[np.ndarray, " tokens"], prompt: list[int]) -> int:
    """How many ids both begin with: a token of prompt and answer together is the answer's."""
    size = min(len(ids), len(prompt))
    differ = np.nonzero(ids[:size] != np.array(prompt[:size], np.int32))[0]
    return int(differ[0]) if len(differ) else size
