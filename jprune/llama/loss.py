"""Next-token negative log-likelihood, without ever holding the logits of a whole batch."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jprune.core.mesh import batch_parts
from jprune.llama.forward import hidden_states, residual, unembed
from jprune.llama.kernels import ArrayLike
from jprune.llama.model import Llama

# Logits held at a time by a device: 2^25 float32 are 128 MiB, enough rows to fill a matrix unit.
MAX_LOGITS = 2**25


def token_nll(
    llama: Llama, h: Float[Array, "batch length hidden"], targets: Int[ArrayLike, "batch length"]
) -> Float[Array, "batch length"]:
    """-log p(target | h) in nats, float32, per position.

    Args:
      llama: the model whose final norm and head are applied.
      h: the residual stream after the last block.
      targets: the token each position should predict.
    """

    def nll(h_chunk, target_chunk):
        logits = unembed(llama, residual(h_chunk))
        picked = jnp.take_along_axis(logits, target_chunk[..., None], axis=-1)[..., 0]
        return jax.nn.logsumexp(logits, axis=-1) - picked

    return by_position(nll, llama.embed.shape[0], h, targets)


def by_position(
    function: Callable[..., Float[Array, "batch length"]],
    logits: int,
    *arrays: Array | np.ndarray,
) -> Float[Array, "batch length"]:
    """What `function` gives for every position, in pieces that hold few logits at a time.

    Args:
      function: from pieces [batch, piece, ...] of the arrays to a number per position.
      logits: how many `function` makes for a position: the vocabulary, once for each model.
      *arrays: [batch, length, ...].
    """
    batch, length = arrays[0].shape[:2]
    most = MAX_LOGITS * batch_parts()
    # In pieces of the length, not of the batch: on a mesh every device has a part of each piece.
    count = min(length, -(-batch * length * logits // most))
    chunk = -(-length // count)
    pad = count * chunk - length
    if count == 1:
        return function(*arrays)

    def pieces(x):
        padded = jnp.pad(x, ((0, 0), (0, pad), *((0, 0) for _ in x.shape[2:])))
        return jnp.moveaxis(padded.reshape(batch, count, chunk, *x.shape[2:]), 1, 0)

    # Recomputing a chunk's logits in the backward pass keeps the promise there too.
    found = jax.lax.map(jax.checkpoint(lambda xs: function(*xs)), tuple(map(pieces, arrays)))
    return jnp.moveaxis(found, 0, 1).reshape(batch, -1)[:, :length]


def next_token_nll(
    llama: Llama, ids: Int[ArrayLike, "batch length"], **kwargs
) -> Float[Array, "batch targets"]:
    """NLL of ids[:, 1:] given what precedes, [batch, length - 1].

    Keyword arguments go to `jprune.llama.forward.hidden_states`.
    """
    # The last position predicts nothing, but whole windows keep lengths even and tiles full.
    h = hidden_states(llama, ids, **kwargs)
    return token_nll(llama, h[:, :-1], ids[:, 1:])
