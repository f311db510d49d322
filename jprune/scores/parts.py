"""From sums over a block's tensors to a score per unit."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jprune.llama.model import Block, Llama
from jprune.scores.units import SUBLAYERS, is_present, present, units


def part_sums(block: Block) -> Float[Array, "2"]:
    """The leaves of a block (numbers) summed per sublayer, each with its norm: attention, MLP."""
    parts = ((block.attn_norm, block.attn), (block.mlp_norm, block.mlp))
    return jnp.stack([sum(jax.tree.leaves(part), start=jnp.zeros(())) for part in parts])


def part_values(
    llama: Llama, sums: Float[np.ndarray, "layers 2"], granularity: str
) -> tuple[float | None, ...]:
    """A score per unit from a number per layer for attention and MLP, added up for a block.

    Units that the model lacks get None.
    """
    there = present(llama)
    return tuple(
        sum(float(sums[unit.layer, column]) for column in SUBLAYERS[unit.part])
        if is_present(unit, there)
        else None
        for unit in units(llama, granularity)
    )
