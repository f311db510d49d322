"""Distillation: a student learns from the teacher's whole distribution, and its hidden states."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jprune.core.errors import InputError
from jprune.llama.forward import block_states, hidden_states, residual, unembed
from jprune.llama.loss import by_position
from jprune.llama.model import Llama, Origin
from jprune.llama.stack import stack
from jprune.retrain.step import Batch

Pairs = tuple[tuple[int, int], ...]


def distillation(
    teacher: Llama,
    student: Sequence[Origin | None],
    *,
    temperature: float = 2.0,
    alpha: float = 0.5,
    hidden_weight: float = 0.0,
    dtype: Any = None,
    consume: bool = False,
) -> Callable[..., tuple[Float[Array, ""], Float[Array, ""]]]:
    """An objective for `jprune.train`; per token that counts it is

    alpha T^2 KL(p_T || q_T) + (1 - alpha) (-log q(next token)) + hidden_weight * MSE,

    with p_T and q_T the softmax of the teacher's and the student's logits over T, T^2 so that the
    gradient does not shrink with T, and MSE the mean over hidden numbers and layers of the squared
    difference of the two residual streams after blocks of one origin: a student that has lost
    blocks is compared where it goes on. Logits are made in pieces, for both models at once.

    Reference: Hinton et al., Distilling the Knowledge in a Neural Network (arXiv 1503.02531),
    section 2; Sun et al., Patient Knowledge Distillation (arXiv 1908.09355), section 3, for hidden
    states.

    Args:
      teacher: the unpruned model, frozen.
      student: the origins of the student's blocks.
      temperature: T.
      alpha: weight of the teacher, the rest is the text's.
      hidden_weight: of the hidden states.
      dtype: that the teacher is run in; by default its own.
      consume: delete the arrays of `teacher` as soon as they are stacked.

    Raises:
      InputError: numbers that cannot be, or hidden states that have no counterpart.
    """
    if not temperature > 0:
        raise InputError(f"temperature takes a number above 0, not {temperature}")
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha takes a number from 0 to 1, not {alpha}")
    if not 0 <= hidden_weight < float("inf"):
        raise InputError(f"hidden_weight takes a number from 0 on, not {hidden_weight}")
    pairs = layer_pairs(student, teacher.origins) if hidden_weight else ()
    if hidden_weight and not pairs:
        raise InputError(
            "no block of the student is one of the teacher's, so hidden states cannot be compared; "
            "set hidden_weight to 0"
        )
    frozen = jax.tree.map(
        lambda x: x.astype(dtype) if dtype and jnp.issubdtype(x.dtype, jnp.floating) else x,
        stack(teacher, consume=consume),
    )
    loss = functools.partial(
        _loss, temperature=temperature, alpha=alpha, hidden_weight=hidden_weight, pairs=pairs
    )
    return jax.tree_util.Partial(loss, frozen)


def layer_pairs(student: Sequence[Origin | None], teacher: Sequence[Origin | None]) -> Pairs:
    """(block of the student, block of the teacher) for those of one origin."""
    place = {origin: index for index, origin in enumerate(teacher) if origin is not None}
    return tuple((index, place[origin]) for index, origin in enumerate(student) if origin in place)


def _loss(
    teacher: Llama,
    llama: Llama,
    batch: Batch,
    *,
    temperature: float,
    alpha: float,
    hidden_weight: float,
    pairs: Pairs,
    key: Key[Array, ""] | None = None,
    remat: bool = False,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The loss sum and token count of a micro-batch; see `distillation`."""
    mask = batch.counted.astype(jnp.float32)
    through = functools.partial(hidden_states, ids=batch.ids, segments=batch.segments)
    states = functools.partial(block_states, ids=batch.ids, segments=batch.segments)
    apart: Float[Array, "batch targets"] | float = 0.0
    if pairs:
        ours, theirs = (jnp.asarray(side) for side in zip(*pairs, strict=True))
        mine = states(llama, remat=remat, key=key)
        its = states(teacher)
        difference = (mine[ours].astype(jnp.float32) - its[theirs].astype(jnp.float32))[:, :, :-1]
        apart = hidden_weight * jnp.mean(difference**2, axis=(0, 3))
        h, h_teacher = mine[-1], its[-1]
    else:
        h = through(llama, remat=remat, key=key)
        h_teacher = through(teacher)

    def of_piece(h, h_teacher, targets):
        logits = unembed(llama, residual(h))
        log_p = jax.nn.log_softmax(unembed(teacher, residual(h_teacher)) / temperature)
        log_q = jax.nn.log_softmax(logits / temperature)
        divergence = jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)
        picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        nll = jax.nn.logsumexp(logits, axis=-1) - picked
        return alpha * temperature**2 * divergence + (1 - alpha) * nll

    vocabulary = llama.embed.shape[0] + teacher.embed.shape[0]
    streams = (h[:, :-1], h_teacher[:, :-1], batch.ids[:, 1:])
    loss = by_position(of_piece, vocabulary, *streams) + apart
    return jnp.sum(loss * mask), jnp.sum(mask)
