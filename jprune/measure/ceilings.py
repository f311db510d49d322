"""What the device at hand really reaches: the two rates that bound every job."""

import dataclasses

import jax
import jax.numpy as jnp

from jprune.measure.timing import Job, measure

# Large enough to fill any device, small enough to be quick on a CPU.
MATRIX = {"cpu": 2048}
DEFAULT_MATRIX = 8192
COPY_BYTES = {"cpu": 2**28}
DEFAULT_COPY_BYTES = 2**32


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


def measure_ceilings(dtype=jnp.bfloat16, repeats: int = 10) -> Ceilings:
    """Measures both rates on the default device, on random numbers (zeros run faster)."""
    backend = jax.default_backend()
    n = MATRIX.get(backend, DEFAULT_MATRIX)
    a, b = (jax.random.normal(jax.random.key(seed), (n, n), dtype) for seed in range(2))
    product = jax.jit(jnp.matmul)
    matrix = measure(Job("matrix product", lambda: product(a, b), 2 * n**3), repeats)
    size = COPY_BYTES.get(backend, DEFAULT_COPY_BYTES)
    words = jax.random.bits(jax.random.key(2), (size // 4,), jnp.uint32)
    # A plain copy would be optimised away.
    copy = jax.jit(lambda x: x ^ jnp.uint32(1))
    moved = measure(Job("copy", lambda: copy(words), 0), repeats)
    return Ceilings(matrix.flops / matrix.seconds, 2 * size / moved.seconds)
