"""Next-token negative log-likelihood, without ever holding the logits of a whole batch."""

import jax
import jax.numpy as jnp
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
    batch, length = targets.shape
    most = MAX_LOGITS * batch_parts()
    # In pieces of the length, not of the batch: on a mesh every device has a part of each piece.
    count = min(length, -(-targets.size * llama.embed.shape[0] // most))
    chunk = -(-length // count)
    pad = count * chunk - length

    def one_chunk(args):
        h_chunk, target_chunk = args
        logits = unembed(llama, residual(h_chunk))
        picked = jnp.take_along_axis(logits, target_chunk[..., None], axis=-1)[..., 0]
        return jax.nn.logsumexp(logits, axis=-1) - picked

    if count == 1:
        return one_chunk((h, targets))
    h = jnp.pad(h, ((0, 0), (0, pad), (0, 0))).reshape(batch, count, chunk, -1)
    padded = jnp.pad(targets, ((0, 0), (0, pad))).reshape(batch, count, chunk)
    pieces = (jnp.moveaxis(h, 1, 0), jnp.moveaxis(padded, 1, 0))
    # Recomputing a chunk's logits in the backward pass keeps the promise there too.
    nll = jax.lax.map(jax.checkpoint(one_chunk), pieces)
    return jnp.moveaxis(nll, 0, 1).reshape(batch, -1)[:, :length]


def next_token_nll(
    llama: Llama, ids: Int[ArrayLike, "batch length"], **kwargs
) -> Float[Array, "batch targets"]:
    """NLL of ids[:, 1:] given what precedes, [batch, length - 1].

    Keyword arguments go to `jprune.llama.forward.hidden_states`.
    """
    # The last position predicts nothing, but whole windows keep lengths even and tiles full.
    h = hidden_states(llama, ids, **kwargs)
    return token_nll(llama, h[:, :-1], ids[:, 1:])
