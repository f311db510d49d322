"""The forward pass as one program per block, started by the host.

Devices run behind the host, so that its calls cost no time. Against a scan over a stack, no block's
weights are copied, a program is compiled once for all equal blocks whatever the depth, and which
blocks and sublayers run is decided by the host: no branches on the device.

Blocks of a model on the host, whose arrays are NumPy's, go to the device one by one.
"""

import itertools
from collections.abc import Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from jprune.core.mesh import current_mesh, paced
from jprune.llama.forward import Context, apply_block, context, embed
from jprune.llama.kernels import ArrayLike, fold_kernels
from jprune.llama.loss import token_nll
from jprune.llama.model import Block, Llama, anonymous
from jprune.llama.names import leaf_name
from jprune.llama.sharding import on_mesh
from jprune.llama.stack import single_blocks, unstack


def ends(llama: Llama) -> Llama:
    """What comes before and after the blocks, without origins."""
    return anonymous(llama.replace(blocks=()))


def blocks(llama: Llama, first: Sequence[Block] = ()) -> Iterator[Block]:
    """The blocks one by one, kernels folded and without origins: equal ones share programs.

    Each is on the device when it is yielded, or on its way there.

    Args:
      llama: the model.
      first: stand for as many of its first blocks.
    """
    rest = itertools.islice(single_blocks(llama), len(first), None)
    for block in itertools.chain(first, rest):
        alone = Llama(llama.config, None, (block.replace(origin=None),), None, None)
        yield fold_kernels(on_device(alone).blocks[0])


def block_shapes(llama: Llama) -> tuple[Block, ...]:
    """The blocks one by one, kernels folded, with shapes in place of arrays."""
    return jax.eval_shape(lambda model: fold_kernels(unstack(model)), llama).blocks


def on_device(llama: Llama) -> Llama:
    """`llama`, or a part of one, with its host arrays on the device or split over the mesh."""
    mesh = current_mesh()
    place = on_mesh(mesh, llama.config) if mesh else None

    def put(path, leaf):
        if not isinstance(leaf, np.ndarray):
            return leaf
        if place is None:
            return jax.device_put(leaf)
        sharding = place(leaf_name(path), leaf.shape)
        return jax.make_array_from_callback(leaf.shape, sharding, leaf.__getitem__)

    return jax.tree_util.tree_map_with_path(put, llama)


def is_on_host(llama: Llama) -> bool:
    """Whether blocks of the model are on the host."""
    return any(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(llama.blocks))


def through(
    llama: Llama, h: Float[Array, "batch length hidden"], ctx: Context
) -> Float[Array, "batch length hidden"]:
    """The residual stream after all blocks."""
    waits = is_on_host(llama)
    source = blocks(llama)
    block = next(source, None)
    while block is not None:
        following = next(source, None)  # on its way to the device while this block runs
        before, h = h, paced(advance(block, h, ctx))
        if waits:  # with the host far ahead, all blocks would be on the device
            jax.block_until_ready(before)
        block = following
    return h


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
