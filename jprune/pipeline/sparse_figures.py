"""What a run that sparsified or narrowed a model reports: how much is gone, and where."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Float

from jprune.checkpoints.hf_widths import count_padding, uniform_config
from jprune.llama.blockwise import block_shapes
from jprune.llama.kernels import kernel_shape
from jprune.llama.linears import linear_kernels
from jprune.llama.masks import Mask, count
from jprune.llama.model import Block, Llama, Origin, count_params
from jprune.llama.stack import layers_of
from jprune.llama.widths import block_width
from jprune.transforms import Transform

Densities = Float[np.ndarray, " blocks"]


def block_weights(block: Block) -> int:
    """How many weights the linears of a block have."""
    shapes = (kernel_shape(kernel) for kernel in linear_kernels(block).values())
    return sum(int(np.prod(shape)) for shape in shapes)


def linear_weights(llama: Llama) -> int:
    """How many weights the linears of all blocks have."""
    return sum(map(block_weights, block_shapes(llama)))


def original_index(origin: Origin | None, index: int) -> int:
    """The index that a block had in the model that it comes from."""
    return index if origin is None else origin.index


def mask_figures(
    llama: Llama,
    masks: Mapping[str, Mask],
    densities: Densities,
    patterns: Sequence[str] | None,
    itemsize: int,
) -> dict[str, Any]:
    """Achieved sparsity of all, of every block and of every matrix; bytes with and without zeros.

    Args:
      llama: the model; shapes count.
      masks: by kernel name.
      densities: that were asked for.
      patterns: of the blocks, with N:M.
      itemsize: bytes of a weight as stored.
    """
    rows, all_weights, all_zeros = [], 0, 0
    for index, (block, origin) in enumerate(zip(block_shapes(llama), llama.origins, strict=True)):
        matrices, weights, zeros = {}, 0, 0
        for name in linear_kernels(block):
            mask = masks[f"layers.{index}.{name}.kernel"]
            size = mask.rows * mask.bits.shape[1]
            gone = size - count(mask)
            matrices[name] = gone / size
            weights, zeros = weights + size, zeros + gone
        row: dict[str, Any] = {
            "layer": original_index(origin, index),
            "density": float(densities[index]),
        }
        if patterns is not None:
            row["pattern"] = patterns[index]
        rows.append(row | {"sparsity": zeros / max(1, weights), "matrices": matrices})
        all_weights, all_zeros = all_weights + weights, all_zeros + zeros
    stored = count_params(llama) * itemsize
    return {
        "achieved": all_zeros / max(1, all_weights),
        "weights": all_weights,
        "zeros": all_zeros,
        "blocks": rows,
        "bytes": {
            "stored": stored,
            "compressed": stored - all_zeros * itemsize + -(-all_weights // 8),
        },
    }


def width_figures(
    llama: Llama, transform: Transform, densities: Densities, itemsize: int
) -> dict[str, Any]:
    """How much narrower every block is, and what an export pads.

    Args:
      llama: the model; shapes count.
      transform: what narrows it.
      densities: that were asked for.
      itemsize: bytes of a weight as stored.
    """
    narrowed = jax.eval_shape(transform, llama)
    head_dim = llama.config.head_dim
    rows, all_weights, all_gone = [], 0, 0
    pairs = zip(block_shapes(llama), block_shapes(narrowed), strict=True)
    for index, ((old, new), origin) in enumerate(zip(pairs, llama.origins, strict=True)):
        weights = block_weights(old)
        gone = weights - block_weights(new)
        before, after = block_width(old, head_dim), block_width(new, head_dim)
        rows.append(
            {
                "layer": original_index(origin, index),
                "density": float(densities[index]),
                "sparsity": gone / max(1, weights),
                "heads": {"before": before.heads, "after": after.heads},
                "neurons": {"before": before.neurons, "after": after.neurons},
            }
        )
        all_weights, all_gone = all_weights + weights, all_gone + gone
    written = [block for block in layers_of(narrowed) if block.attn or block.mlp]
    padding = count_padding(written, uniform_config(narrowed))
    unpadded = count_params(narrowed) * itemsize
    return {
        "achieved": all_gone / max(1, all_weights),
        "weights": all_weights,
        "zeros": all_gone,
        "blocks": rows,
        "bytes": {"stored": unpadded + padding * itemsize, "unpadded": unpadded},
        "padded": padding > 0,
    }
