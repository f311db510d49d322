"""Choosing the next token from logits: greedy, or at random among the likely ones."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jprune.core.errors import InputError


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How tokens are chosen.

    Attributes:
      temperature: logits are divided by it; 0 takes the most likely token.
      top_k: only so many of the most likely tokens; None for all.
      top_p: only the most likely tokens that together have this probability.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise InputError(f"temperature is a number from 0 on, not {self.temperature}")
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"top_k is an integer from 1 on, not {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is above 0 and at most 1, not {self.top_p}")


def choose(
    logits: Float[Array, "batch vocab"], sampling: Sampling, key: Key[Array, ""]
) -> Int[Array, " batch"]:
    """The next token of every row.

    Reference: Holtzman et al., nucleus sampling (arXiv 1904.09751), section 3.1, for top_p.
    """
    if sampling.temperature == 0:
        return jnp.argmax(logits, axis=-1)
    logits = logits / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < logits.shape[-1]:
        least = jax.lax.top_k(logits, sampling.top_k)[0][:, -1:]
        logits = jnp.where(logits < least, -jnp.inf, logits)
    if sampling.top_p < 1:
        ranked = jnp.sort(logits, axis=-1, descending=True)
        before = jnp.cumsum(jax.nn.softmax(ranked, axis=-1), axis=-1)
        before = jnp.concatenate([jnp.zeros_like(before[:, :1]), before[:, :-1]], axis=-1)
        # A token stays if those before it do not have the probability yet: the first one always.
        least = jnp.min(jnp.where(before < sampling.top_p, ranked, jnp.inf), axis=-1, keepdims=True)
        logits = jnp.where(logits < least, -jnp.inf, logits)
    return jax.random.categorical(key, logits, axis=-1)
