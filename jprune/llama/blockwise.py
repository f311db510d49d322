"""The forward pass as one program per block, started by the host.

Devices run behind the host, so that its calls cost no time. Against a scan over a stack, no block's
weights are copied out of the stack, a program is compiled once for all equal blocks whatever the
depth, and which blocks and sublayers run is decided by the host: no branches on the device.
"""

import jax
from jaxtyping import Array, Float, Int

from jprune.llama.forward import Context, apply_block, context, embed
from jprune.llama.kernels import ArrayLike
from jprune.llama.model import Block, Llama, anonymous


def ends(llama: Llama) -> Llama:
    """What comes before and after the blocks, without origins."""
    return anonymous(llama.replace(blocks=()))


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
