"""Which weights of a matrix stay: by magnitude, by Wanda, and N of M.

Masks are true where a weight stays. Counts are exact; among equals the earlier goes.

References: Sun et al., Wanda (arXiv 2306.11695), section 3; Mishra et al., Accelerating Sparse
Deep Neural Networks (arXiv 2104.08378), section 2, for N:M.
"""

import dataclasses
import math
import re

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jprune.core.errors import InputError
from jprune.llama.kernels import ArrayLike
from jprune.scores.smallest import smallest

UNSTRUCTURED = "unstructured"


@dataclasses.dataclass(frozen=True)
class Pattern:
    """N of every M consecutive inputs of an output stay."""

    keep: int
    of: int

    def __str__(self) -> str:
        return f"{self.keep}:{self.of}"


def parse_pattern(text: str) -> Pattern | None:
    """The pattern of a text such as "2:4"; None for "unstructured".

    Raises:
      InputError: neither, or N above M.
    """
    if text == UNSTRUCTURED:
        return None
    match = re.fullmatch(r"(\d+):(\d+)", text)
    if not match:
        raise InputError(
            f"unknown pattern {text!r}; give 'unstructured', or how many of how many weights "
            "stay, as in '2:4'"
        )
    keep, of = map(int, match.groups())
    if not 0 < keep <= of:
        raise InputError(f"pattern {text} keeps {keep} of {of}; give N:M with N from 1 to M")
    return Pattern(keep, of)


def metric(
    kernel: Float[ArrayLike, "in out"], s: Float[ArrayLike, " in"]
) -> Float[Array, "in out"]:
    """A = |W| sqrt(s), float32.

    Args:
      kernel: W.
      s: mean over windows of the sum over tokens of each input's square.
    """
    return jnp.abs(kernel.astype(jnp.float32)) * jnp.sqrt(s)[:, None]


def magnitudes(kernel: Float[ArrayLike, "in out"], s: None = None) -> Float[Array, "in out"]:
    """|W|, float32."""
    return jnp.abs(kernel.astype(jnp.float32))


def pruned_count(size: int, sparsity: float) -> int:
    """floor(size * sparsity), where a rounding error of the product does not count."""
    return min(size, math.floor(size * sparsity + 1e-9))


def count_mask(
    values: Float[ArrayLike, "in out"], count: Int[ArrayLike, ""] | int, axis: int | None = None
) -> Bool[Array, "in out"]:
    """All but the `count` smallest of the matrix, or with `axis` 0 of each output.

    Magnitude takes |W| of the matrix, Wanda the metric A of each output.
    """
    return ~smallest(values, count, axis=axis)


def pattern_mask(
    values: Float[ArrayLike, "in out"], keep: Int[ArrayLike, ""] | int, of: int
) -> Bool[Array, "in out"]:
    """The `keep` largest of each `of` consecutive inputs of an output.

    Args:
      values: what decides, not negative.
      keep: N.
      of: M, which divides the inputs (see `check_pattern`).
    """
    groups = values.reshape(-1, of, values.shape[1])
    members = [groups[:, i] for i in range(of)]
    # How many of its group go before an entry: the smaller ones, and equals that are earlier.
    ranks = [
        sum(
            ((members[j] <= x) if j < i else (members[j] < x)).astype(jnp.int8)
            for j in range(of)
            if j != i
        )
        for i, x in enumerate(members)
    ]
    return jnp.stack([rank >= of - keep for rank in ranks], axis=1).reshape(values.shape)


def check_pattern(pattern: Pattern, rows: int, name: str) -> None:
    """Raises InputError if a pattern does not divide the inputs of a matrix."""
    if rows % pattern.of:
        raise InputError(
            f"pattern {pattern} does not divide the {rows} inputs of {name}; "
            f"give N:M whose M divides them, or pattern 'unstructured'"
        )
