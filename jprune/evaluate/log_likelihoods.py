"""Log-likelihoods of continuations, what they have in common computed once."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jprune.core.errors import InputError
from jprune.core.mesh import batch_parts, paced, put_batch
from jprune.core.processes import to_host
from jprune.core.progress import log, progress
from jprune.data import check_vocabulary
from jprune.evaluate.batches import window_batch_size
from jprune.evaluate.encoding import Request
from jprune.evaluate.packing import Rows, groups, pack
from jprune.llama.blockwise import ends, through
from jprune.llama.config import LlamaConfig
from jprune.llama.forward import Context, context, embed, unembed
from jprune.llama.kernels import ArrayLike
from jprune.llama.loss import MAX_LOGITS
from jprune.llama.model import Llama

# A program is compiled for each length of rows that is used. The shortest is long enough for most
# questions, so that these are packed into rows of one length.
SHORTEST_ROW = 256
# What the attention of a batch keeps on a device.
MAX_SCORE_BYTES = 2**30
# Targets of a row per step; fewer where the logits would be too many.
TARGETS_PER_STEP = 64

Scored = tuple[Float[Array, "batch targets"], Bool[Array, "batch targets"]]


class LogLikelihoods(NamedTuple):
    """Of each request.

    Attributes:
      values: log p(continuation | context) in nats, summed over tokens in float64.
      greedy: whether every token of the continuation is the most likely one.
    """

    values: Float[np.ndarray, " requests"]
    greedy: Bool[np.ndarray, " requests"]


def log_likelihoods(
    llama: Llama,
    requests: Sequence[Request],
    keys: Sequence[int] | None = None,
    *,
    max_length: int | None = None,
    label: str = "log-likelihoods",
) -> LogLikelihoods:
    """log p(continuation | context) of each request, up to rounding as if it were read alone.

    A context and a continuation that together, but for the last token, are longer than the model
    reads lose tokens at the left. An empty continuation has log-likelihood 0.

    Args:
      llama: a model in any form; one on the host goes to the device block by block for each batch.
      requests: in any order.
      keys: requests with equal keys run together, and what they begin with alike runs once; by
        default requests with equal contexts.
      max_length: how many tokens are read; by default the model's maximum.
      label: of the progress.

    Raises:
      InputError: an empty context, a continuation longer than the model reads, or ids outside the
        vocabulary.
    """
    longest = max_length or llama.config.max_position_embeddings
    requests = _fitting(requests, longest)
    if keys is None:
        numbers: dict[tuple[int, ...], int] = {}
        keys = [numbers.setdefault(request.context, len(numbers)) for request in requests]
    found = groups(requests, keys)
    values, greedy = np.zeros(len(requests)), np.ones(len(requests), bool)
    if not found:
        return LogLikelihoods(values, greedy)
    check_vocabulary(
        np.concatenate([np.r_[one.ids, one.targets] for one in found]), llama.embed.shape[0]
    )
    rows = pack(found, row_lengths(max(len(one.ids) for one in found)))
    batches = [batch for part in rows for batch in _batches(llama.config, part)]
    running: list[tuple[Rows, list[Scored]]] = []
    for batch in progress(batches, label, unit="batch"):
        running.append((batch, _run(llama, batch)))
        if len(running) > 1:  # the host is one batch ahead
            _take(*running.pop(0), values, greedy)
    _take(*running.pop(), values, greedy)
    return LogLikelihoods(values, greedy)


def row_lengths(longest: int) -> list[int]:
    """The lengths that rows may have where the longest group has so many tokens.

    Each is 4/3 or 3/2 of the one before: few to compile for, and little filling.
    """
    lengths = [SHORTEST_ROW]
    while lengths[-1] < longest:
        before = lengths[-1]
        lengths.append(before * 4 // 3 if before & (before - 1) else before * 3 // 2)
    return lengths


def _fitting(requests: Sequence[Request], longest: int) -> list[Request]:
    """The requests, those that are too long cut at the left."""
    found, cut = [], 0
    for number, request in enumerate(requests):
        if not request.context:
            raise InputError(f"request {number} has no context; begin it with BOS or some text")
        if len(request.continuation) > longest:
            raise InputError(
                f"the continuation of request {number} has {len(request.continuation)} tokens, but "
                f"the model reads {longest}; shorten it"
            )
        most = longest + 1 - len(request.continuation)  # the last token is not read
        if len(request.context) > most:
            cut += 1
            request = Request(request.context[-most:], request.continuation)
        found.append(request)
    if cut:
        log.warning(
            "%d of %d texts are longer than the %d tokens that the model reads; their beginnings "
            "are cut off",
            *(cut, len(requests), longest),
        )
    return found


def _batches(config: LlamaConfig, rows: Rows) -> list[Rows]:
    """Rows in batches of one shape, the last filled up with rows that ask for nothing."""
    count, _, length = rows.tokens.shape
    parts = batch_parts()
    scores = 4 * config.num_attention_heads * length**2  # bytes of a row
    most = max(1, MAX_SCORE_BYTES // scores) * parts
    size = min(window_batch_size((count, length)), most)
    filling = -count % size
    full = [
        np.pad(array, ((0, filling), *[(0, 0)] * (array.ndim - 1)), constant_values=value)
        for array, value in (
            (rows.tokens, 0),
            (rows.where, 0),
            (rows.targets, 0),
            (rows.requests, -1),
        )
    ]
    starts = range(0, count + filling, size)
    return [Rows(*(array[start : start + size] for array in full)) for start in starts]


def _run(llama: Llama, batch: Rows) -> list[Scored]:
    """NLL of all targets of a batch and whether each is the most likely token, in pieces."""
    outside = ends(llama)
    h, ctx = _start(outside, put_batch(batch.tokens))
    h = through(llama, h, ctx)
    size = len(batch.tokens)
    step = MAX_LOGITS * batch_parts() // (size * llama.embed.shape[0])
    step = min(max(1, step), TARGETS_PER_STEP)
    asked = int((batch.requests >= 0).sum(axis=1).max())
    pieces = []
    for first in range(0, asked, step):
        where, targets = (
            put_batch(_columns(array, first, step)) for array in (batch.where, batch.targets)
        )
        pieces.append(paced(_score(outside, h, where, targets)))
    return pieces


def _columns(array: np.ndarray, first: int, count: int) -> np.ndarray:
    chosen = array[:, first : first + count]
    return np.pad(chosen, ((0, 0), (0, count - chosen.shape[1])))


def _take(batch: Rows, pieces: list[Scored], values: np.ndarray, greedy: np.ndarray) -> None:
    """Adds what was computed for a batch to its requests."""
    if not pieces:
        return
    nll, best = (
        np.concatenate([to_host(one) for one in column], axis=1)[:, : batch.requests.shape[1]]
        for column in zip(*pieces, strict=True)
    )
    requests = batch.requests[:, : nll.shape[1]]
    asked = requests >= 0
    np.subtract.at(values, requests[asked], nll[asked].astype(np.float64))
    np.logical_and.at(greedy, requests[asked], best[asked])


@jax.jit
def _start(
    llama: Llama, tokens: Int[ArrayLike, "batch 4 length"]
) -> tuple[Float[Array, "batch length hidden"], Context]:
    """The residual stream before the first block, and what all blocks share."""
    ids, positions, segments, branches = jnp.moveaxis(jnp.asarray(tokens), 1, 0)
    ctx = context(llama.config, ids.shape[1])
    ctx = dataclasses.replace(
        ctx,
        cos=ctx.cos[positions],
        sin=ctx.sin[positions],
        visible=_visible(positions, segments, branches, llama.config.sliding_window),
    )
    return embed(llama, ids), ctx


def _visible(
    positions: Int[Array, "batch length"],
    segments: Int[Array, "batch length"],
    branches: Int[Array, "batch length"],
    window: int | None,
) -> Bool[Array, "batch length length"]:
    """Whether the token of each row (axis 1) sees that of each column: what is before it in its
    sequence.
    """
    distance = positions[:, :, None] - positions[:, None, :]
    same = segments[:, :, None] == segments[:, None, :]
    own = (branches[:, None, :] == 0) | (branches[:, :, None] == branches[:, None, :])
    seen = same & own & (distance >= 0)
    return seen if window is None else seen & (distance < window)


@jax.jit
def _score(
    llama: Llama,
    h: Float[Array, "batch length hidden"],
    where: Int[ArrayLike, "batch targets"],
    targets: Int[ArrayLike, "batch targets"],
) -> Scored:
    logits = unembed(llama, jnp.take_along_axis(h, jnp.asarray(where)[..., None], axis=1))
    picked = jnp.take_along_axis(logits, jnp.asarray(targets)[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - picked, logits.argmax(axis=-1) == targets
