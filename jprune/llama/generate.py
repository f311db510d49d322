"""Generation: prompts of any lengths go through the model together, then token by token."""

import dataclasses
import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from jprune.core.errors import InputError
from jprune.llama.attention import attend
from jprune.llama.cache import Cache, attend_cached, capacity, extend, prompt_cache, visible
from jprune.llama.choose_token import Sampling, choose
from jprune.llama.config import LlamaConfig
from jprune.llama.decode_layout import (
    DecodeBlock,
    DecodeLayout,
    attention_inputs,
    decode_layout,
    mlp_added,
)
from jprune.llama.forward import Context, affine, context, embed, residual, unembed
from jprune.llama.model import Llama
from jprune.llama.rope import rope_table

# Prompts are filled up to a multiple of this, so that many lengths share a program.
LENGTH_MULTIPLE = 32


def generate(
    llama: Llama | DecodeLayout,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    *,
    sampling: Sampling = Sampling(),  # noqa: B008  (frozen)
    stop: Sequence[int] | None = None,
    seed: int = 0,
    batch_size: int = 64,
) -> list[list[int]]:
    """The tokens that follow each prompt, up to and with the first that stops.

    One program decodes all tokens of a batch, and ends when all its rows have stopped. What a
    prompt gets does not depend, up to rounding, on those beside it.

    Args:
      llama: the model, or its `decode_layout`, which is then made only once.
      prompts: token ids, at least one each.
      max_new_tokens: at most so many each.
      sampling: how tokens are chosen; greedy by default.
      stop: tokens that end a text; None for the model's EOS, () for none.
      seed: of what is drawn.
      batch_size: prompts at a time, those of like length together.

    Raises:
      InputError: an empty prompt, ids outside the vocabulary, or a prompt that with its new tokens
        is longer than the model reads.
    """
    layout = llama if isinstance(llama, DecodeLayout) else decode_layout(llama)
    _check(layout, prompts, max_new_tokens)
    ends = _stops(layout.ends.config.eos_token_id) if stop is None else tuple(map(int, stop))
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    found: dict[int, list[int]] = {}
    size = min(batch_size, len(prompts))
    for number, first in enumerate(range(0, len(prompts), max(1, size))):
        rows = order[first : first + size]
        ids, lengths = _filled([prompts[i] for i in rows], size)
        key = jax.random.fold_in(jax.random.key(seed), number)
        new, counts = decode(layout, ids, lengths, key, max_new_tokens, sampling, ends)
        new, counts = np.asarray(new), np.asarray(counts)
        found |= {i: new[row, : counts[row]].tolist() for row, i in enumerate(rows)}
    return [found[i] for i in range(len(prompts))]


@functools.partial(jax.jit, static_argnames=("max_new_tokens", "sampling", "stop"))
def decode(
    layout: DecodeLayout,
    ids: Int[Array | np.ndarray, "batch length"],
    lengths: Int[Array | np.ndarray, " batch"],
    key: Key[Array, ""],
    max_new_tokens: int,
    sampling: Sampling,
    stop: tuple[int, ...] = (),
) -> tuple[Int[Array, "batch new"], Int[Array, " batch"]]:
    """New tokens [batch, max_new_tokens] and how many of them count, the one that stopped included.

    Args:
      layout: the model.
      ids: prompts, filled up behind with anything.
      lengths: how many tokens of each are the prompt; 0 for rows that only fill the batch.
      key: of what is drawn.
      max_new_tokens: at most so many.
      sampling: how tokens are chosen.
      stop: tokens that end a row.
    """
    length = ids.shape[1]
    empty = jnp.asarray(lengths) == 0
    lengths = jnp.maximum(lengths, 1)
    pads = length - lengths
    slots = capacity(length + max_new_tokens, layout.ends.config.sliding_window)
    logits, caches = prefill(layout, ids, lengths, slots)

    def take(logits: Array, step: Array | int, done: Array) -> tuple[Array, Array]:
        token = choose(logits, sampling, jax.random.fold_in(key, step))
        token = jnp.where(done, 0, token).astype(jnp.int32)
        return token, done | _among(token, stop)

    token, done = take(logits, 0, empty)
    new = jnp.zeros((ids.shape[0], max_new_tokens), jnp.int32).at[:, 0].set(token)
    counts = jnp.ones_like(lengths)

    def going(state):
        step, _, _, done, _, _ = state
        return (step < max_new_tokens) & ~jnp.all(done)

    def one_more(state):
        step, token, caches, done, new, counts = state
        slot = length + step - 1  # where this token goes
        logits, caches = decode_step(layout, token, caches, slot, pads)
        counts = counts + ~done
        token, done = take(logits, step, done)
        new = jax.lax.dynamic_update_slice_in_dim(new, token[:, None], step, axis=1)
        return step + 1, token, caches, done, new, counts

    start = (jnp.asarray(1), token, caches, done, new, counts)
    *_, new, counts = jax.lax.while_loop(going, one_more, start)
    return new, counts


def prefill(
    layout: DecodeLayout,
    ids: Int[Array | np.ndarray, "batch length"],
    lengths: Int[Array | np.ndarray, " batch"],
    slots: int,
) -> tuple[Float[Array, "batch vocab"], tuple[Cache | None, ...]]:
    """Logits after each prompt, and the caches of all blocks.

    The prompts run as any windows do; what they are filled up with comes behind, where a causal
    mask hides it.
    """
    ctx = context(layout.ends.config, ids.shape[1])
    pads = ids.shape[1] - jnp.asarray(lengths)
    h = embed(layout.ends, ids)
    caches = []
    for block in layout.blocks:
        cache = None
        if block.qkv is not None:
            q, k, v = attention_inputs(block, h, ctx)
            out = attend(q, k, v, ctx.attention, ctx.window)
            h = h + affine(out.reshape(*h.shape[:2], -1), block.o)
            cache = prompt_cache(k, v, pads, slots)
        caches.append(cache)
        h = _after_mlp(block, h, ctx)
    last = jnp.take_along_axis(h, (jnp.asarray(lengths) - 1)[:, None, None], axis=1)
    return unembed(layout.ends, last)[:, 0], tuple(caches)


def decode_step(
    layout: DecodeLayout,
    token: Int[Array, " batch"],
    caches: tuple[Cache | None, ...],
    slot: Int[Array, ""],
    pads: Int[Array, " batch"],
) -> tuple[Float[Array, "batch vocab"], tuple[Cache | None, ...]]:
    """Logits after one more token of every row, and the caches with it.

    Args:
      layout: the model.
      token: the last one of every row.
      caches: of what is before.
      slot: of the token, the same for all rows.
      pads: the first slot of every row.
    """
    config = layout.ends.config
    first = next((cache for cache in caches if cache is not None), None)
    cos, sin = _rotation(config, slot - pads)
    ctx = dataclasses.replace(context(config, 1), cos=cos, sin=sin)
    seen = None if first is None else visible(first.k.shape[2], slot, pads)
    h = embed(layout.ends, token[:, None])
    after = []
    for block, cache in zip(layout.blocks, caches, strict=True):
        if cache is not None:
            q, k, v = attention_inputs(block, h, ctx)
            cache = extend(cache, k, v, slot)
            out = attend_cached(q, cache, seen)
            h = h + affine(out.reshape(*h.shape[:2], -1), block.o)
        after.append(cache)
        h = _after_mlp(block, h, ctx)
    return unembed(layout.ends, h)[:, 0], tuple(after)


def _after_mlp(block: DecodeBlock, h: Array, ctx: Context) -> Array:
    return residual(h if block.gate_up is None else h + mlp_added(block, h, ctx))


def _rotation(config: LlamaConfig, positions: Int[Array, " batch"]) -> tuple[Array, Array]:
    """Cosine and sine at one position for every row, [batch, 1, half] each."""
    # Read from the same table as whole windows: computed here, angles could round otherwise.
    cos, sin = rope_table(config.rope, config.head_dim, config.max_position_embeddings)
    at = jnp.clip(positions, 0, config.max_position_embeddings - 1)
    return cos[at][:, None], sin[at][:, None]


def _among(token: Int[Array, " batch"], stop: tuple[int, ...]) -> Bool[Array, " batch"]:
    if not stop:
        return jnp.zeros(token.shape, bool)
    return jnp.isin(token, jnp.asarray(stop))


def _stops(eos: int | tuple[int, ...] | None) -> tuple[int, ...]:
    if eos is None:
        return ()
    return (eos,) if isinstance(eos, int) else tuple(eos)


def _filled(prompts: Sequence[Sequence[int]], rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Prompts in an array of `rows` rows, filled up behind, and their lengths."""
    longest = max(map(len, prompts))
    ids = np.zeros((rows, -(-longest // LENGTH_MULTIPLE) * LENGTH_MULTIPLE), np.int32)
    lengths = np.zeros(rows, np.int32)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = prompt
        lengths[row] = len(prompt)
    return ids, lengths


def _check(layout: DecodeLayout, prompts: Sequence[Sequence[int]], new: int) -> None:
    config, vocab = layout.ends.config, layout.ends.embed.shape[0]
    if new < 1:
        raise InputError(f"max_new_tokens is an integer from 1 on, not {new}")
    for number, prompt in enumerate(prompts):
        if not len(prompt):
            raise InputError(f"prompt {number} has no tokens; begin it with BOS or some text")
        if min(prompt) < 0 or max(prompt) >= vocab:
            raise InputError(f"prompt {number} has ids outside the vocabulary of {vocab}")
        if len(prompt) + new > config.max_position_embeddings:
            raise InputError(
                f"prompt {number} has {len(prompt)} tokens, and {new} new ones make it longer than "
                f"the {config.max_position_embeddings} that the model reads; shorten either"
            )
