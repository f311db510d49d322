"""The forward pass as one program per block, started by the host.

Devices run behind the host, so that its calls cost no time. Against a scan over a stack, no block's
weights are copied, a program is compiled once for all equal blocks whatever the depth, and which
blocks and sublayers run is decided by the host: no branches on the device.
"""

from collections.abc import Iterator

import jax
from jaxtyping import Array, Float, Int

from jprune.llama.forward import Context, apply_block, context, embed
from jprune.llama.kernels import ArrayLike, fold_kernels
from jprune.llama.loss import token_nll
from jprune.llama.model import Block, Llama, anonymous
from jprune.llama.stack import single_blocks


def ends(llama: Llama) -> Llama:
    """What comes before and after the blocks, without origins."""
    return anonymous(llama.replace(blocks=()))


def blocks(llama: Llama) -> Iterator[Block]:
    """The blocks one by one, kernels folded and without origins: equal ones share programs."""
    return (fold_kernels(block.replace(origin=None)) for block in single_blocks(llama))


@jax.jit
def start(
    llama: Llama, ids: Int[ArrayLike, "batch length"]
) -> tuple[Float[Array, "batch length hidden"], Context]:
    """The residual stream before the first block, and what all blocks share."""
    return embed(llama, ids), context(llama.config, ids.shape[1])


@jax.jit
def advance(
    block: Block, h: Float[Array, "batch length hidden"], ctx: Context
) -> Float[Array, "batch length hidden"]:
    """The residual stream after one block."""
    return apply_block(block, h, ctx)


@jax.jit
def nll_sums(
    llama: Llama, h: Float[Array, "batch length hidden"], ids: Int[ArrayLike, "batch length"]
) -> Float[Array, " batch"]:
    """The sum of -log p(ids[:, 1:]) of each window, in nats, float32.

    Args:
      llama: the model's `ends`.
      h: the residual stream after the last block.
      ids: the tokens read.
    """
    return token_nll(llama, h[:, :-1], ids[:, 1:]).sum(axis=-1)
