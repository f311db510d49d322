"""Perplexity: exp of the mean next-token NLL over token windows."""

import dataclasses
from collections.abc import Iterable
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int

from jprune.core import InputError, log
from jprune.data import Tokenizer, check_vocabulary, evaluation_windows, find_source
from jprune.evaluate.batches import map_batches, window_batch_size
from jprune.evaluate.protocol import Protocol, preset
from jprune.llama.blockwise import ends, nll_sums, start, through
from jprune.llama.kernels import ArrayLike
from jprune.llama.model import Llama


@dataclasses.dataclass(frozen=True)
class Perplexity:
    """A perplexity and how certain it is.

    Attributes:
      ppl: exp(nll).
      nll: mean over all predicted tokens of -log p, in nats.
      standard_error: of `nll`, from the spread over windows: std(window_nll, ddof=1) / sqrt(N);
        NaN for a single window.
      tokens: how many tokens were predicted, N * (T - 1).
      window_nll: the mean NLL of each window [N].
    """

    ppl: float
    nll: float
    standard_error: float
    tokens: int
    window_nll: Float[np.ndarray, " windows"]

    def to_json(self, protocol: Protocol) -> dict[str, Any]:
        """The figures with their data and protocol, as the commands write them."""
        return {
            "data": protocol.data,
            "ppl": self.ppl,
            "nll": self.nll,
            "standard_error": self.standard_error,
            "tokens": self.tokens,
            "protocol": protocol.to_json(),
        }


@dataclasses.dataclass(frozen=True)
class EvaluationSet:
    """Token windows and the protocol that made them (its dtype is set when a model is run)."""

    protocol: Protocol
    ids: Int[np.ndarray, "windows length"]


def perplexity(
    llama: Llama, ids: Int[np.ndarray, "windows length"], batch_size: int | None = None
) -> Perplexity:
    """Perplexity of a model on token windows: exp of the mean of -log p(ids[:, 1:]).

    Each window is read by itself; its first token is only context. A window's NLL is summed in
    float32, windows are summed in float64. NaN and infinities are passed on and logged.

    Args:
      llama: a model in any form; one on the host goes to the device block by block for each batch.
      ids: token ids, at least 2 per window.
      batch_size: windows per batch; by default what suits the device.

    Raises:
      InputError: no windows, windows of a single token, or ids outside the vocabulary.
    """
    return summarise(window_nll(llama, ids, batch_size), ids.shape[1] - 1)


def window_nll(
    llama: Llama,
    ids: Int[np.ndarray, "windows length"],
    batch_size: int | None = None,
    label: str = "perplexity",
) -> Float[np.ndarray, " windows"]:
    """The mean NLL of each window, in nats, float64. Arguments and errors: `perplexity`."""
    check_windows(llama, ids)
    size = batch_size or window_batch_size(ids.shape)
    sums = map_batches(partial(_batch_nll, llama), np.asarray(ids, np.int32), size, label)
    total = np.concatenate(sums).astype(np.float64)[: len(ids)]
    if bad := int(np.sum(~np.isfinite(total))):
        log.warning("%d of %d windows have a NLL that is not finite", bad, len(ids))
    return total / (ids.shape[1] - 1)


def summarise(nll: Float[np.ndarray, " windows"], tokens_per_window: int) -> Perplexity:
    """The perplexity of windows of equally many predicted tokens, from each one's mean NLL."""
    with np.errstate(over="ignore", invalid="ignore"):
        mean = float(np.mean(nll))
        spread = float(np.std(nll, ddof=1)) if len(nll) > 1 else float("nan")
        return Perplexity(
            ppl=float(np.exp(mean)),
            nll=mean,
            standard_error=spread / len(nll) ** 0.5,
            tokens=len(nll) * tokens_per_window,
            window_nll=nll,
        )


def evaluation_sets(
    sources: Iterable[str],
    tokenizer: Tokenizer | None,
    protocol: Protocol,
    num_windows: int | None = None,
    data_dir: str | None = None,
    max_windows: int | None = None,
) -> list[EvaluationSet]:
    """The token windows of each source under a protocol, to be run on one or several models.

    Args:
      sources: data source strings (`jprune.data.sources`).
      tokenizer: the models' tokenizer; without a BOS token the protocol's `bos` becomes "none".
      protocol: window length, join and BOS; see `preset`.
      num_windows: the first so many windows of each, no fewer; None for all.
      data_dir: see `jprune.data.sources.find_source`.
      max_windows: without `num_windows`: at most so many of each; fewer are no error.
    """
    if tokenizer is not None and tokenizer.bos_token_id is None and protocol.bos != "none":
        log.info("the tokenizer has no BOS token: windows are made without")
        protocol = dataclasses.replace(protocol, bos="none")
    return [
        _evaluation_set(source, tokenizer, protocol, num_windows, data_dir, max_windows)
        for source in sources
    ]


def _evaluation_set(name, tokenizer, protocol, num_windows, data_dir, max_windows) -> EvaluationSet:
    source = find_source(name, "evaluation", data_dir)
    ids = evaluation_windows(
        source,
        tokenizer,
        protocol.window_length,
        num_windows,
        protocol.join,
        protocol.bos,
        max_windows=max_windows,
    )
    protocol = dataclasses.replace(
        protocol,
        data=name,
        split=source.split,
        window_length=ids.shape[1],
        num_windows=len(ids),
        tokens=len(ids) * (ids.shape[1] - 1),
    )
    if source.is_tokens:
        protocol = dataclasses.replace(protocol, join=None, bos=None)
    return EvaluationSet(protocol, ids)


def evaluate_sets(
    llama: Llama, sets: Iterable[EvaluationSet], batch_size: int | None = None
) -> list[tuple[Protocol, Perplexity]]:
    """The perplexity of a model on each set, with the complete protocol."""
    sets = list(sets)
    for one in sets:
        check_vocabulary(one.ids, llama.embed.shape[0], one.protocol.data)
    dtype = str(llama.dtype)
    return [
        (
            dataclasses.replace(one.protocol, dtype=dtype),
            summarise(
                window_nll(llama, one.ids, batch_size, f"perplexity of {one.protocol.data}"),
                one.ids.shape[1] - 1,
            ),
        )
        for one in sets
    ]


def evaluate_sources(
    llama: Llama,
    tokenizer: Tokenizer | None,
    sources: Iterable[str],
    protocol_name: str = "shortened",
    num_windows: int | None = None,
    data_dir: str | None = None,
    max_windows: int | None = None,
    batch_size: int | None = None,
) -> list[tuple[Protocol, Perplexity]]:
    """The perplexity of a model on each source under a preset of PROTOCOLS.

    `[result.to_json(protocol) for protocol, result in ...]` is the form that `jprune eval` writes.
    Arguments: `evaluation_sets`, `perplexity`.
    """
    protocol = preset(protocol_name, llama.config)
    sets = evaluation_sets(sources, tokenizer, protocol, num_windows, data_dir, max_windows)
    return evaluate_sets(llama, sets, batch_size)


def _batch_nll(llama: Llama, ids: Int[ArrayLike, "batch length"]) -> Float[Array, " batch"]:
    """The summed NLL of each window of a batch."""
    h, ctx = start(ends(llama), ids)
    return nll_sums(ends(llama), through(llama, h, ctx), ids)


def check_windows(llama: Llama, ids: np.ndarray) -> None:
    """Raises InputError unless a model of which `llama` has the ends can read these windows."""
    windows, length = ids.shape
    if windows == 0:
        raise InputError("perplexity needs at least one window")
    if length < 2:
        raise InputError("perplexity needs windows of at least 2 tokens: the first is only context")
    check_vocabulary(ids, llama.embed.shape[0])
    longest = llama.config.max_position_embeddings
    if length > longest:
        log.warning("windows of %d tokens are longer than the model's %d", length, longest)
