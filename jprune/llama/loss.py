"""Next-token negative log-likelihood, without ever holding the logits of a whole batch."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jprune.llama.forward import hidden_states, unembed
from jprune.llama.kernels import ArrayLike
from jprune.llama.model import Llama

# Logits held at a time: 2^25 float32 are 128 MiB, enough rows to keep a matrix unit busy.
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
    rows, hidden = targets.size, h.shape[-1]
    count = -(-rows * llama.embed.shape[0] // MAX_LOGITS)
    chunk = -(-rows // count)
    pad = count * chunk - rows
    flat_h = jnp.pad(h.reshape(rows, hidden), ((0, pad), (0, 0))).reshape(-1, chunk, hidden)
    flat_targets = jnp.pad(targets.reshape(rows), (0, pad)).reshape(-1, chunk)

    def one_chunk(args):
        h_chunk, target_chunk = args
        logits = unembed(llama, h_chunk)
        picked = jnp.take_along_axis(logits, target_chunk[:, None], axis=-1)[:, 0]
        return jax.nn.logsumexp(logits, axis=-1) - picked

    if count == 1:
        return one_chunk((flat_h[0], flat_targets[0]))[:rows].reshape(targets.shape)
    # Recomputing a chunk's logits in the backward pass keeps the promise there too.
    nll = jax.lax.map(jax.checkpoint(one_chunk), (flat_h, flat_targets))
    return nll.reshape(-1)[:rows].reshape(targets.shape)


def next_token_nll(
    llama: Llama, ids: Int[ArrayLike, "batch length"], **kwargs
) -> Float[Array, "batch targets"]:
    """NLL of ids[:, 1:] given what precedes, [batch, length - 1].

    Keyword arguments go to `jprune.llama.forward.hidden_states`.
    """
    # The last position predicts nothing, but whole windows keep lengths even and tiles full.
    h = hidden_states(llama, ids, **kwargs)
    return token_nll(llama, h[:, :-1], ids[:, 1:])
