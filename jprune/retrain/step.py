"""One optimizer step: gradients of named parameters, accumulated over micro-batches."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from jprune.llama.loss import next_token_nll
from jprune.llama.model import Llama
from jprune.retrain.split import Rest, join


@struct.dataclass
class Batch:
    """Windows of tokens, which of them the model should learn to predict, and their documents.

    As in `jprune.data.TrainingSet`.
    """

    ids: Int[Array | np.ndarray, "*batch length"]
    mask: Bool[Array | np.ndarray, "*batch length"]
    segments: Int[Array | np.ndarray, "*batch length"] | None = None

    @property
    def counted(self) -> Bool[Array | np.ndarray, "*batch targets"]:
        """Which tokens count, from the second of a window on.

        The first token of a document has nothing before it, and padding is in no document.
        """
        if self.segments is None:
            return self.mask[..., 1:]
        before, own = self.segments[..., :-1], self.segments[..., 1:]
        return self.mask[..., 1:] & (own == before) & (own > 0)


@struct.dataclass
class TrainState:
    """What a checkpoint holds: float32 parameters, the optimizer's state, steps done."""

    step: Int[Array, ""]
    params: dict[str, Float[Array, "..."]]
    opt_state: PyTree


class Metrics(NamedTuple):
    """Of one step: mean loss per token, norm of the gradient before clipping, tokens counted."""

    loss: Float[Array, ""]
    grad_norm: Float[Array, ""]
    tokens: Float[Array, ""]


Objective = Callable[..., tuple[Float[Array, ""], Float[Array, ""]]]


def next_token_loss(
    llama: Llama, batch: Batch, *, key: Key[Array, ""] | None = None, remat: bool = False
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Sum of -log p(token | what precedes it) over unmasked tokens, and how many they are.

    The first token of a document has nothing before it and never counts.
    """
    nll = next_token_nll(llama, batch.ids, remat=remat, key=key, segments=batch.segments)
    mask = batch.counted.astype(jnp.float32)
    return jnp.sum(nll * mask), jnp.sum(mask)


def init_state(params: dict[str, Array], optimizer: optax.GradientTransformation) -> TrainState:
    """The state before the first step, with float32 masters of `params`."""
    masters = {name: jnp.array(value, jnp.float32) for name, value in params.items()}
    return TrainState(jnp.zeros((), jnp.int32), masters, optimizer.init(masters))


def gradients(
    params: dict[str, Array],
    rest: Rest,
    batch: Batch,
    key: Key[Array, ""] | None,
    objective: Objective,
    *,
    dtype=jnp.float32,
    remat: bool = False,
) -> tuple[Float[Array, ""], Float[Array, ""], dict[str, Array]]:
    """Loss sum, token count and the gradient of loss sum / token count.

    Args:
      params: float32 parameters that train, by name.
      rest: the frozen rest of the model.
      batch: with a leading axis of micro-batches [micro, batch, length]. Sums are taken over all
        of them in float32 before the division, so that their number does not change the result.
      key: for dropout; None trains without.
      objective: gives the loss sum and token count of a micro-batch, as `next_token_loss` does.
      dtype: of the forward and backward pass; gradients arrive in float32.
      remat: recompute activations in the backward pass.
    """
    micro = batch.ids.shape[0]
    keys = None if key is None else jax.random.split(key, micro)

    def loss(params, batch, key):
        model = join({name: value.astype(dtype) for name, value in params.items()}, rest)
        return objective(model, batch, key=key, remat=remat)

    def accumulate(carry, xs):
        (total, count), grads = jax.value_and_grad(loss, has_aux=True)(params, *xs)
        return jax.tree.map(jnp.add, carry, (total, count, grads)), None

    start = (jnp.zeros(()), jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    (total, count, grads), _ = jax.lax.scan(accumulate, start, (batch, keys))
    tokens = jnp.maximum(count, 1.0)
    return total, count, jax.tree.map(lambda g: g / tokens, grads)


@functools.partial(
    jax.jit,
    static_argnames=("optimizer", "dtype", "remat"),
    donate_argnames="state",
)
def train_step(
    state: TrainState,
    rest: Rest,
    batch: Batch,
    key: Key[Array, ""] | None,
    objective: Objective,
    *,
    optimizer: optax.GradientTransformation,
    dtype=jnp.float32,
    remat: bool = False,
) -> tuple[TrainState, Metrics]:
    """The state after one update; `state` is donated. Arguments as for `gradients`.

    Args:
      state: parameters and optimizer state.
      rest: the frozen rest of the model.
      batch: micro-batches [micro, batch, length].
      key: seeds this run's dropout; the step number is folded in. None trains without.
      objective: wrapped in `jax.tree_util.Partial`, which may bind arrays such as a teacher's.
      optimizer: from `jprune.retrain.optimizer.adamw`.
      dtype: see `gradients`.
      remat: see `gradients`.
    """
    step_key = None if key is None else jax.random.fold_in(key, state.step)
    total, count, grads = gradients(
        state.params, rest, batch, step_key, objective, dtype=dtype, remat=remat
    )
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    norm = jnp.sqrt(sum(jnp.sum(grad * grad) for grad in grads.values()))
    metrics = Metrics(total / jnp.maximum(count, 1.0), norm, count)
    return TrainState(state.step + 1, params, opt_state), metrics
