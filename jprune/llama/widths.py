"""How wide each block is, and blocks cut to some of their heads and neurons."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from jprune.llama.kernels import kernel_shape, take
from jprune.llama.model import Attention, Block, Linear, Llama, Mlp, Run


class Width(NamedTuple):
    """The width of a block; a removed sublayer has 0 of everything.

    Attributes:
      heads: key-value heads.
      group: query heads that each of them serves.
      neurons: of the feed-forward network.
    """

    heads: int
    group: int
    neurons: int


def block_width(block: Block, head_dim: int) -> Width:
    """The width of a block, stacked or not, from the shapes of its arrays."""
    heads, group, neurons = 0, 0, 0
    if block.attn is not None:
        queries, keys = (kernel_shape(x.kernel)[-1] for x in (block.attn.q, block.attn.k))
        heads, group = keys // head_dim, queries // keys
    if block.mlp is not None:
        neurons = kernel_shape(block.mlp.gate.kernel)[-1]
    return Width(heads, group, neurons)


def widths(llama: Llama) -> tuple[Width, ...]:
    """The width of every block, in order."""
    found: list[Width] = []
    for part in llama.blocks:
        block, count = (part.block, len(part)) if isinstance(part, Run) else (part, 1)
        found += [block_width(block, llama.config.head_dim)] * count
    return tuple(found)


def narrow_block(
    block: Block, heads: Sequence[int] | None, neurons: Sequence[int] | None, head_dim: int
) -> Block:
    """`block` with only some of its heads and neurons; a part of which all stay is left as it is.

    Args:
      block: a single block.
      heads: key-value heads that stay, each with the query heads that it serves; None for all.
      neurons: of the feed-forward network, that stay; None for all.
      head_dim: of the model.
    """
    has, group, had = block_width(block, head_dim)
    if heads is not None and list(heads) != list(range(has)):
        block = block.replace(attn=_some_heads(block.attn, np.asarray(heads), head_dim, group))
    if neurons is not None and list(neurons) != list(range(had)):
        block = block.replace(mlp=_some_neurons(block.mlp, np.asarray(neurons)))
    return block


def _some_heads(
    attn: Attention, heads: Int[np.ndarray, " kept"], head_dim: int, group: int
) -> Attention:
    """The query heads that a key-value head serves come one after another."""
    keys = (heads[:, None] * head_dim + np.arange(head_dim)).ravel()
    width = group * head_dim
    queries = (heads[:, None] * width + np.arange(width)).ravel()
    return attn.replace(
        q=_outputs(attn.q, queries),
        k=_outputs(attn.k, keys),
        v=_outputs(attn.v, keys),
        o=_inputs(attn.o, queries),
    )


def _some_neurons(mlp: Mlp, neurons: Int[np.ndarray, " kept"]) -> Mlp:
    return mlp.replace(
        gate=_outputs(mlp.gate, neurons),
        up=_outputs(mlp.up, neurons),
        down=_inputs(mlp.down, neurons),
    )


def _outputs(linear: Linear, indices: Int[np.ndarray, " kept"]) -> Linear:
    bias = None if linear.bias is None else linear.bias[indices]
    return Linear(take(linear.kernel, indices, 1), bias)


def _inputs(linear: Linear, indices: Int[np.ndarray, " kept"]) -> Linear:
    return Linear(take(linear.kernel, indices, 0), linear.bias)
