"""The loss of many models cut from one stack, every shared prefix computed once.

Leaving out each of L blocks in turn runs L (L - 1) blocks if every candidate runs by itself. But
candidate i agrees with the full model up to block i: walking down the stack with all candidates at
once, a candidate is forked from the full model's residual stream where it first differs, and only
L (L + 1) / 2 blocks run, each block's weights being fetched once for all candidates.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from jprune.evaluate.batches import map_batches, window_batch_size
from jprune.llama.forward import context, embed
from jprune.llama.loss import token_nll
from jprune.llama.model import Llama, anonymous
from jprune.llama.virtual import Plan, gated_block, source_block

# Residual streams held at a time, over all candidates.
MAX_STATE_BYTES = 2**31


def candidate_nll(
    llama: Llama,
    plan: Plan,
    gates: Bool[np.ndarray, "candidates steps 2"],
    ids: Int[np.ndarray, "windows length"],
    *,
    capacity: int | None = None,
    batch_size: int | None = None,
) -> Float[np.ndarray, "candidates windows"]:
    """Mean next-token NLL of each window under each candidate, in nats per token, float32.

    Candidate c runs, at step s of `plan`, the attention of layer plan.layer[s] if gates[c, s, 0]
    and its MLP if gates[c, s, 1]; `plan`'s own gates are the model from which candidates fork, and
    the more of a prefix a candidate has in common with it, the less it costs.

    Args:
      llama: a virtual model, see `jprune.llama.virtual.virtual`.
      plan: the model that candidates are compared with.
      gates: which sublayers each candidate runs; `plan_gates(plan)` is `plan` itself.
      ids: token windows.
      capacity: calls of equal capacity share one compiled program, as long as they have no more
        candidates than this.
      batch_size: windows per step; by default what suits the device.
    """
    start = first_difference(plan, gates)
    order = np.argsort(start, kind="stable")
    batch_size = batch_size or window_batch_size(ids.shape, llama)
    state_bytes = batch_size * ids.shape[1] * llama.embed.shape[1] * llama.embed.dtype.itemsize
    limit = max(1, MAX_STATE_BYTES // state_bytes)
    capacity = min(limit, max(capacity or 0, len(gates)))
    llama = anonymous(llama)
    nll = np.empty((len(gates), len(ids)), np.float32)
    for first in range(0, len(gates), capacity):
        group = order[first : first + capacity]
        padded = np.pad(group, (0, capacity - len(group)), mode="edge")
        batches = map_batches(
            partial(_frontier, llama, plan, gates[padded], start[padded], len(group)),
            ids,
            batch_size,
            f"NLL of {len(group)} candidates",
        )
        nll[group] = np.concatenate(batches, axis=1)[: len(group), : len(ids)]
    return nll


def plan_gates(plan: Plan) -> Bool[np.ndarray, "steps 2"]:
    """The gates of `plan`, attention and MLP per step."""
    return np.stack([np.asarray(plan.attn), np.asarray(plan.mlp)], axis=-1)


def first_difference(
    plan: Plan, gates: Bool[np.ndarray, "candidates steps 2"]
) -> Int[np.ndarray, " candidates"]:
    """The first step at which each candidate differs from `plan`; the number of steps if none."""
    differs = (gates != plan_gates(plan)).any(axis=-1)
    return np.where(differs.any(axis=-1), differs.argmax(axis=-1), differs.shape[-1])


@jax.jit
def _frontier(
    llama: Llama,
    plan: Plan,
    gates: Bool[Array, "capacity steps 2"],
    start: Int[Array, " capacity"],
    count: Int[Array, ""],
    ids: Int[Array, "batch length"],
) -> Float[Array, "capacity batch"]:
    """NLL per window of the first `count` candidates, which are sorted by `start`."""
    ctx = context(llama.config, ids.shape[1])
    base = embed(llama, ids)
    states = jnp.zeros((len(gates), *base.shape), base.dtype)
    steps = len(plan.layer)
    # How many candidates have left the base after each step: they come first.
    live = jnp.minimum(jnp.searchsorted(start, jnp.arange(steps), side="right"), count)

    def step(carry, row):
        base, states = carry
        index, entry, live = row
        block = source_block(llama, entry.layer)

        def advance(j, states):
            h = jnp.where(start[j] == index, base, states[j])
            h = gated_block(block, h, ctx, gates[j, index, 0], gates[j, index, 1])
            return states.at[j].set(h)

        states = jax.lax.fori_loop(0, live, advance, states)
        return (gated_block(block, base, ctx, entry.attn, entry.mlp), states), None

    (base, states), _ = jax.lax.scan(step, (base, states), (jnp.arange(steps), plan, live))

    def finish(j, nll):
        h = jnp.where(start[j] == steps, base, states[j])
        return nll.at[j].set(token_nll(llama, h[:, :-1], ids[:, 1:]).mean(axis=-1))

    empty = jnp.zeros((len(gates), len(ids)), jnp.float32)
    return jax.lax.fori_loop(0, count, finish, empty)
