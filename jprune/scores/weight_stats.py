"""What the layerwise rates of sparsity are read off: the metric A of each block of the dense model.

References: Yin et al., OWL (arXiv 2310.05175), section 4; DLP (arXiv 2505.23807), section 3.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Real

from jprune.llama.kernels import Leaf
from jprune.llama.linears import INPUT_OF, linear_kernels
from jprune.llama.model import Block, Llama
from jprune.scores.inputs import Inputs, Offload, stream
from jprune.scores.masks import metric
from jprune.scores.smallest import kth_smallest

OUTLIER_FACTOR = 5.0


@dataclasses.dataclass(frozen=True)
class WeightStats:
    """Per block, over all of its linears, of A = |W| sqrt(s).

    Attributes:
      mean: of A [blocks].
      median: of A, of an even number the lower one [blocks].
      outliers: percentage of A above M times its mean [blocks].
      sizes: weights of the linears [blocks].
    """

    mean: Float[np.ndarray, " blocks"]
    median: Float[np.ndarray, " blocks"]
    outliers: Float[np.ndarray, " blocks"]
    sizes: Real[np.ndarray, " blocks"]


def weight_stats(
    llama: Llama,
    ids: Int[np.ndarray, "windows length"],
    *,
    outlier_factor: float = OUTLIER_FACTOR,
    batch_size: int | None = None,
    offload: Offload = "none",
) -> WeightStats:
    """Statistics of the metric of every block, in one pass over the dense model.

    Args:
      llama: the model.
      ids: calibration windows.
      outlier_factor: M.
      batch_size: windows per step; by default what suits the device.
      offload: see `jprune.scores.inputs.stream`.

    Raises:
      InputError: activations that are not finite.
    """
    rows, sizes = [], []

    def visit(index: int, block: Block, inputs: Inputs) -> Block:
        kernels = linear_kernels(block)
        squares = {name: inputs.squares[INPUT_OF[name]] for name in kernels}
        rows.append(_block_stats(kernels, squares, outlier_factor))
        sizes.append(sum(kernel.size for kernel in kernels.values()))
        return block

    stream(
        llama,
        ids,
        visit,
        reads_only=True,
        batch_size=batch_size,
        offload=offload,
        label="weight statistics",
    )
    mean, median, outliers = np.asarray(jax.device_get(rows), np.float64).T
    return WeightStats(mean, median, outliers, np.asarray(sizes))


@jax.jit
def _block_stats(
    kernels: dict[str, Leaf],
    squares: dict[str, Float[Array, " in"]],
    factor: Float[Array, ""] | float,
) -> Float[Array, "3"]:
    values = [metric(kernel, squares[name]) for name, kernel in kernels.items()]
    size = sum(x.size for x in values)
    mean = sum(x.sum() for x in values) / size
    above = sum(jnp.sum(x > factor * mean, dtype=jnp.int32) for x in values)
    return jnp.stack([mean, kth_smallest(values, (size + 1) // 2), 100 * above / size])
