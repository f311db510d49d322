"""Token windows [windows, length]: sampled for calibration, consecutive for evaluation."""

import itertools
from collections.abc import Sequence
from typing import Literal, Protocol, get_args, runtime_checkable

import numpy as np
from jaxtyping import Int

from jprune.core import InputError, log, unknown
from jprune.data.sampling import shuffled
from jprune.data.sources import Source, documents, find_source, token_windows
from jprune.llama.config import Bos

Sample = Literal["documents", "stream", "first"]
SAMPLES: tuple[str, ...] = get_args(Sample)
_BOS: tuple[str, ...] = get_args(Bos)

Windows = Int[np.ndarray, "windows length"]

# Tokens at the end of a text that its continuation might have changed: when a prefix of a text is
# tokenised in its stead, this many are not used. Merges reach no further than a word or a run of
# spaces, so this is ample.
_MARGIN = 512


@runtime_checkable
class Tokenizer(Protocol):
    """What is needed of a tokenizer; those of transformers and `jprune.checkpoints` qualify."""

    @property
    def bos_token_id(self) -> int | None:
        """The id of the token that begins a text, if there is one."""
        ...

    def encode(self, text: str, *, add_special_tokens: bool = True) -> Sequence[int]:
        """The token ids of `text`."""
        ...


def calibration_windows(
    source: str | Source,
    tokenizer: Tokenizer | None,
    num_windows: int,
    window_length: int,
    sample: str = "documents",
    seed: int = 0,
    data_dir: str | None = None,
    bos: str = "none",
) -> Windows:
    r"""Token windows for calibration, drawn with a seeded generator.

    Args:
      source: a data source string; of a known name the train split. `file.npz:key` is used exactly
        as it is, all of it: the other arguments do not apply.
      tokenizer: with `encode`; not needed for token ids.
      num_windows: how many windows.
      window_length: tokens per window.
      sample: "documents": a random span of each of `num_windows` random documents that are at
        least `window_length` tokens long (the papers' way with C4 and BookCorpus). Documents are
        drawn without repetition, and tokenised one at a time, only those drawn. Where there are
        too few, they are drawn again, none more often than it has disjoint windows. "stream":
        random spans of the text joined by "\n\n", no two with the same start. "first": the
        first consecutive windows of the joined text.
      seed: seed of every draw.
      data_dir: see `jprune.data.sources.find_source`.
      bos: "every": each window is BOS and `window_length` - 1 tokens of the text, for models that
        are lost without (`LlamaConfig.bos`). Otherwise a window begins where it was drawn.

    Raises:
      InputError: too few windows (with how many there are), an unknown `sample` or `bos`, a
        tokenizer without BOS where it is asked for, or a source that cannot be read.
    """
    found = _found(source, "calibration", data_dir)
    if found.is_tokens:
        ids = token_windows(found)
        if ids.shape != (num_windows, window_length):
            log.info("%s: %d windows of %d tokens, used as they are", found.text, *ids.shape)
        return ids
    if sample not in SAMPLES:
        raise unknown("sample", sample, SAMPLES)
    _check_sizes(num_windows, window_length)
    if seed < 0:
        raise InputError(f"seed must not be negative, but is {seed}")
    _check_bos(bos, window_length)
    encode = _encoder(tokenizer, found)
    if bos == "every":
        start = _bos(tokenizer)
        drawn = _drawn(found, encode, num_windows, window_length - 1, sample, seed)
        return np.insert(drawn, 0, start, axis=1)
    return _drawn(found, encode, num_windows, window_length, sample, seed)


def _drawn(
    found: Source, encode, num_windows: int, window_length: int, sample: str, seed: int
) -> Windows:
    if sample == "documents":
        return _from_documents(found, encode, num_windows, window_length, seed)
    needed = num_windows * window_length if sample == "first" else None
    tokens = _stream(found, encode, "\n\n", needed)
    _check_count(len(tokens) // window_length, num_windows, window_length, found)
    if sample == "first":
        return _consecutive(tokens, window_length)[:num_windows]
    rng = np.random.default_rng(seed)
    starts = rng.choice(len(tokens) - window_length + 1, num_windows, replace=False)
    return tokens[starts[:, None] + np.arange(window_length)]


def evaluation_windows(
    source: str | Source,
    tokenizer: Tokenizer | None,
    window_length: int,
    num_windows: int | None = None,
    join: str = "\n\n",
    bos: str = "first",
    data_dir: str | None = None,
    max_windows: int | None = None,
) -> Windows:
    """Consecutive disjoint token windows of a source's joined documents, for perplexity.

    The documents, joined by `join`, are tokenised as one text; a partial window at the end is
    dropped. Only as much text is read and tokenised as the windows asked for need.

    Args:
      source: a data source string; of a known name the test split (c4: validation). The windows of
        `file.npz:key` are used as they are, whatever their length.
      tokenizer: with `encode` and `bos_token_id`; not needed for token ids.
      window_length: tokens per window, BOS included.
      num_windows: the first so many windows, no fewer; None for all.
      join: what stands between two documents.
      bos: "first": BOS once, before the text; "every": every window is BOS and the next
        `window_length` - 1 tokens of the text; "none".
      data_dir: see `jprune.data.sources.find_source`.
      max_windows: without `num_windows`: at most so many windows; fewer are no error.

    Raises:
      InputError: fewer than `num_windows` windows or none (with how many there are), a tokenizer
        without BOS where one is asked for, or a source that cannot be read.
    """
    found = _found(source, "evaluation", data_dir)
    limit = max_windows if num_windows is None else num_windows
    if limit is not None and limit < 1:
        raise InputError(f"number of windows must be at least 1, not {limit}")
    if found.is_tokens:
        ids = token_windows(found)
        _check_count(len(ids), num_windows or 1, ids.shape[1], found)
        return ids[:limit]
    _check_sizes(1, window_length)
    _check_bos(bos, window_length)
    encode = _encoder(tokenizer, found)
    start = [] if bos == "none" else [_bos(tokenizer)]
    per_window = window_length - (bos == "every")
    tokens = _stream(found, encode, join, None if limit is None else limit * per_window)
    if bos == "first":
        tokens = np.concatenate([np.asarray(start, np.int32), tokens])
    windows = _consecutive(tokens, per_window)[:limit]
    _check_count(len(windows), num_windows or 1, window_length, found)
    if bos == "every":
        windows = np.insert(windows, 0, start[0], axis=1)
    return windows


def check_vocabulary(ids: Int[np.ndarray, "..."], vocab_size: int, what: str = "the data") -> None:
    """Raises InputError unless every id is in [0, vocab_size)."""
    if ids.size and (ids.min() < 0 or ids.max() >= vocab_size):
        worst = int(ids.max() if ids.max() >= vocab_size else ids.min())
        raise InputError(
            f"token id {worst} of {what} is outside the model's vocabulary of {vocab_size}; "
            "the data must be tokenised with the model's own tokenizer"
        )


def _found(source: str | Source, purpose, data_dir) -> Source:
    return source if isinstance(source, Source) else find_source(source, purpose, data_dir)


def _check_sizes(num_windows: int, window_length: int) -> None:
    if num_windows < 1 or window_length < 1:
        raise InputError(
            f"number and length of windows must be at least 1, not {num_windows} x {window_length}"
        )


def _check_bos(bos: str, window_length: int) -> None:
    if bos not in _BOS:
        raise unknown("bos", bos, _BOS)
    if bos == "every" and window_length < 2:
        raise InputError("a window that starts with BOS needs at least 2 tokens")


def _encoder(tokenizer: Tokenizer | None, source: Source):
    if tokenizer is None:
        raise InputError(
            f"the model has no tokenizer, so {source.text} cannot be tokenised; "
            "give token ids (file.npz:key) or a model folder with tokenizer.json"
        )
    return lambda text: np.asarray(tokenizer.encode(text, add_special_tokens=False), np.int32)


def _bos(tokenizer) -> int:
    if tokenizer.bos_token_id is None:
        raise InputError("the tokenizer has no BOS token; use bos='none'")
    return tokenizer.bos_token_id


def _check_count(there: int, wanted: int, length: int, source: Source) -> None:
    if there < wanted:
        raise InputError(
            f"too few windows: {source.text} holds {there} of {length} tokens, {wanted} wanted; "
            "ask for fewer or shorter windows, or give more text"
        )


def _consecutive(tokens: np.ndarray, length: int) -> Windows:
    count = len(tokens) // length
    return tokens[: count * length].reshape(count, length)


def _stream(source: Source, encode, join: str, needed: int | None) -> Int[np.ndarray, " tokens"]:
    """The tokens of the joined documents, all of them or at least the first `needed`."""
    if needed is None:
        return encode(join.join(documents(source)))
    rest = documents(source)
    parts: list[str] = []
    size, whole = 0, False
    goal = 5 * (needed + _MARGIN)  # characters; English has 3 to 5 per token
    while True:
        while size < goal and not whole:
            text = next(rest, None)
            if text is None:
                whole = True
            else:
                text = join + text if parts else text
                parts.append(text)
                size += len(text)
        joined = "".join(parts)
        tokens = encode(joined[:goal])
        if whole and size <= goal:
            return tokens
        if len(tokens) >= needed + _MARGIN:
            return tokens[:needed]
        per_token = goal / max(len(tokens), 1)
        goal = max(2 * goal, int(1.1 * per_token * (needed + _MARGIN)))


def _from_documents(source, encode, num_windows, length, seed) -> Windows:
    rng = np.random.default_rng([seed, 1])  # apart from the stream that orders the documents
    long_enough: list[np.ndarray] = []
    windows: list[np.ndarray] = []
    # A token is at least one byte, but for the space that some tokenizers put before a text.
    for _, text in shuffled(lambda: documents(source), seed, least_bytes=length - 1):
        tokens = encode(text)
        if len(tokens) >= length:
            long_enough.append(tokens)
            windows.append(_span(tokens, length, rng))
            if len(windows) == num_windows:
                return np.stack(windows)
    capacity = [len(tokens) // length for tokens in long_enough]
    if sum(capacity) < num_windows:
        raise InputError(
            f"too few windows: {source.text} has {len(capacity)} documents of at least {length} "
            f"tokens, which hold {sum(capacity)} windows, {num_windows} wanted; "
            "ask for fewer or shorter windows, or give more text"
        )
    again = (
        tokens
        for drawn in range(1, max(capacity))
        for tokens, limit in zip(long_enough, capacity, strict=True)
        if drawn < limit
    )
    extra = itertools.islice(again, num_windows - len(windows))
    return np.stack(windows + [_span(tokens, length, rng) for tokens in extra])


def _span(tokens: np.ndarray, length: int, rng: np.random.Generator) -> np.ndarray:
    start = rng.integers(len(tokens) - length + 1)
    return tokens[start : start + length]
