"""What the device at hand really reaches: the two rates that bound every job."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jprune.measure.timing import Job, measure

# Large enough to fill any device, small enough to be quick on a CPU.
MATRIX = {"cpu": 2048}
DEFAULT_MATRIX = 8192
COPY_BYTES = {"cpu": 2**28}
DEFAULT_COPY_BYTES = 2**32
# Started one after the other: a single one would be measured with its launch.
CALLS = 10


@dataclasses.dataclass(frozen=True)
class Ceilings:
    """Measured rates of a device.

    Attributes:
      flops: FLOP/s of a large matrix product.
      bandwidth: bytes read and written per second by a large copy.
    """

    flops: float
    bandwidth: float

    def limit(self, flops: int, read_bytes: int = 0) -> float:
        """Seconds below which no job of so many FLOPs and bytes can be."""
        return max(flops / self.flops, read_bytes / self.bandwidth)


def measure_ceilings(dtype=jnp.bfloat16, repeats: int = 5) -> Ceilings:
    """Measures both rates on the default device, on random numbers (zeros run faster)."""
    backend = jax.default_backend()
    n = MATRIX.get(backend, DEFAULT_MATRIX)
    a, b = (jax.random.normal(jax.random.key(seed), (n, n), dtype) for seed in range(2))
    product = jax.jit(jnp.matmul)
    # Scaled so that a product is as large as its left factor.
    b = b / n**0.5
    size = COPY_BYTES.get(backend, DEFAULT_COPY_BYTES)
    words = jax.random.bits(jax.random.key(2), (size // 4,), jnp.uint32)
    # A plain copy would be optimised away.
    copy = jax.jit(lambda x: x ^ jnp.uint32(1))
    return Ceilings(
        flops=2 * n**3 / _seconds_each(lambda x: product(x, b), a, repeats),
        bandwidth=2 * size / _seconds_each(copy, words, repeats),
    )


def _seconds_each(function: Callable[[Array], Array], x: Array, repeats: int) -> float:
    """Seconds of one call, of many that follow each other before the host waits."""

    def chain():
        y = x
        for _ in range(CALLS):
            y = function(y)
        return y

    return measure(Job("chain", chain, 0), repeats).seconds / CALLS
