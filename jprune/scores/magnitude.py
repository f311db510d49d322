"""Magnitude of the weights."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jprune.core.processes import to_host
from jprune.llama.kernels import fold_kernels
from jprune.llama.model import Block, Llama
from jprune.llama.stack import single_blocks
from jprune.scores.parts import part_sums, part_values
from jprune.scores.result import Scores, rank
from jprune.scores.units import units


def magnitude(
    llama: Llama, ids=None, *, granularity: str = "block", protect=(), power: float = 1.0
) -> Scores:
    """Sum of |w|^power over the weights of each unit, norms included.

    No data is read. Reference: Kim et al., Shortened LLaMA (arXiv 2402.02834), section 2.2.

    Args:
      llama: the model.
      ids: ignored.
      granularity: of the units.
      protect: layers out of reach.
      power: exponent p.
    """
    sums = [_block_sums(block.replace(origin=None), power) for block in single_blocks(llama)]
    values = part_values(llama, np.stack([to_host(one) for one in sums]), granularity)
    found = units(llama, granularity)
    return Scores(
        criterion="magnitude",
        granularity=granularity,
        units=found,
        scores=values,
        order=rank(found, values, protect),
        protected=tuple(protect),
        settings={"power": power},
    )


@jax.jit
def _block_sums(block: Block, power: Float[Array, ""]) -> Float[Array, "2"]:
    def total(weight):
        return jnp.sum(jnp.abs(weight.astype(jnp.float32)) ** power)

    return part_sums(jax.tree.map(total, fold_kernels(block)))
