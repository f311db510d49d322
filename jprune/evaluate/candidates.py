"""The loss of many models cut from one, every shared prefix computed once.

Leaving out each of L blocks in turn runs L (L - 1) blocks if every candidate runs by itself. But
candidates that agree up to block i share the residual stream there: walking down the model with all
candidates at once, only L (L + 1) / 2 blocks run, and several candidates share a matrix product.
"""

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jprune.core.mesh import batch_parts, paced
from jprune.evaluate.batches import map_batches, window_batch_size
from jprune.llama.blockwise import blocks, ends, nll_sums, start
from jprune.llama.forward import Context, apply_block, residual
from jprune.llama.kernels import ArrayLike
from jprune.llama.model import Block, Llama, anonymous

# Residual streams held at a time by a device, over all candidates.
MAX_STATE_BYTES = 2**31
# Tokens per matrix product, over candidates: enough to fill the device's matrix units.
TOKENS_PER_PRODUCT = {"cpu": 2048}
DEFAULT_TOKENS_PER_PRODUCT = 5120

States = Sequence[Float[Array, "batch length hidden"]]


def candidate_nll(
    llama: Llama,
    gates: Bool[np.ndarray, "candidates layers 2"],
    ids: Int[np.ndarray, "windows length"],
    *,
    batch_size: int | None = None,
) -> Float[np.ndarray, "candidates windows"]:
    """Mean next-token NLL of each window under each candidate, in nats per token, float32.

    Candidate c runs the attention of block l if gates[c, l, 0] and its MLP if gates[c, l, 1]. The
    longer the prefixes that candidates have in common, the less they cost. Programs are compiled
    for kinds of blocks, whatever the number of candidates and the depth.

    Args:
      llama: a model in any form; what it lacks stays away, whatever the gates.
      gates: which sublayers each candidate runs.
      ids: token windows.
      batch_size: windows per step; by default what suits the device.
    """
    batch_size = batch_size or window_batch_size(ids.shape)
    state_bytes = batch_size * ids.shape[1] * llama.embed.shape[1] * llama.embed.dtype.itemsize
    limit = max(1, batch_parts() * MAX_STATE_BYTES // state_bytes)
    # In lexical order, so that those who share a prefix are in one group.
    order = np.lexsort(gates.reshape(len(gates), -1).T[::-1])
    llama = anonymous(llama)
    nll = np.empty((len(gates), len(ids)), np.float32)
    for first in range(0, len(gates), limit):
        group = order[first : first + limit]
        batches = map_batches(
            partial(_group_nll, llama, gates[group]),
            ids,
            batch_size,
            f"NLL of {len(group)} candidates",
        )
        nll[group] = np.concatenate(batches, axis=1)[:, : len(ids)]
    return nll


def _group_nll(
    llama: Llama,
    gates: Bool[np.ndarray, "candidates layers 2"],
    ids: Int[ArrayLike, "batch length"],
) -> Float[Array, "candidates batch"]:
    width = _width(ids.size)
    first, ctx = start(ends(llama), ids)
    states = [first]
    at = np.zeros(len(gates), int)  # the state that each candidate is in
    for block, on in zip(blocks(llama), np.moveaxis(gates, 1, 0), strict=True):
        on = on & (block.attn is not None, block.mlp is not None)
        # Candidates part where they run different sublayers on the same state.
        branches, at = np.unique(np.column_stack([at, on]), axis=0, return_inverse=True)
        at = at.reshape(-1)
        states = [states[origin] for origin in branches[:, 0]]
        for attn, mlp in ((True, True), (True, False), (False, True)):
            part = sublayers(block, attn, mlp)
            members = np.flatnonzero((branches[:, 1:] == (attn, mlp)).all(axis=1))
            for chosen in _in_groups(members, width):
                after = paced(_advance(part, tuple(states[i] for i in chosen), ctx))
                for i, state in zip(chosen, after, strict=True):
                    states[i] = state
    nll = [nll_sums(ends(llama), state, ids) / (ids.shape[1] - 1) for state in states]
    return jnp.stack([nll[i] for i in at])


def _width(tokens: int) -> int:
    """How many candidates share a product where a state has so many tokens."""
    most = TOKENS_PER_PRODUCT.get(jax.default_backend(), DEFAULT_TOKENS_PER_PRODUCT)
    return max(1, batch_parts() * most // tokens)


def sublayers(block, attn: bool, mlp: bool) -> Block:
    """`block`, a Block, with only the sublayers that are on."""
    block = block if attn else block.replace(attn_norm=None, attn=None)
    return block if mlp else block.replace(mlp_norm=None, mlp=None)


def _in_groups(members: np.ndarray, width: int) -> list[np.ndarray]:
    """Groups of `width` and the rest one by one: two sizes to compile for, and no filling."""
    whole = len(members) // width * width
    return [*members[:whole].reshape(-1, width), *members[whole:].reshape(-1, 1)]


@jax.jit
def _advance(block: Block, states: States, ctx: Context) -> States:
    """Each state after the block, all in one product."""
    if len(states) == 1:
        return (apply_block(block, states[0], ctx),)
    # Windows outermost: on a mesh they are what is split.
    h = jnp.stack(states, axis=1)
    after = apply_block(block, residual(h.reshape(-1, *h.shape[2:])), ctx).reshape(h.shape)
    return tuple(residual(after[:, i]) for i in range(len(states)))
