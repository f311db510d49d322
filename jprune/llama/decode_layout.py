"""The layout that decodes fastest: single blocks, projections that share an input in one kernel.

Decoding a token reads every weight once and computes little with it, so what counts is few, large
products: one for q, k and v, one for gate and up.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from jprune.core.mesh import current_mesh
from jprune.llama.forward import ACTIVATIONS, Context, affine, rms_norm
from jprune.llama.kernels import Leaf, fold, kernel_shape
from jprune.llama.model import Attention, Block, Linear, Llama, Mlp
from jprune.llama.rope import apply_rope
from jprune.llama.stack import single_blocks

Q = Float[Array, "batch length heads head_dim"]
KV = Float[Array, "batch length kv_heads head_dim"]


@struct.dataclass
class Projections:
    """Affine maps of one input, in one kernel or each in its own.

    Attributes:
      parts: a single one whose outputs lie side by side, or one for each.
      sizes: how many outputs each has.
    """

    parts: tuple[Linear, ...]
    sizes: tuple[int, ...] = struct.field(pytree_node=False)


@struct.dataclass
class DecodeBlock:
    """A block as it is decoded with; a removed sublayer is None in all its parts."""

    attn_norm: Leaf | None
    qkv: Projections | None
    q_norm: Leaf | None
    k_norm: Leaf | None
    o: Linear | None
    mlp_norm: Leaf | None
    gate_up: Projections | None
    down: Linear | None


@struct.dataclass
class DecodeLayout:
    """A model to decode with.

    Attributes:
      ends: embeddings, final norm and head, without blocks.
      blocks: in order.
    """

    ends: Llama
    blocks: tuple[DecodeBlock, ...]


def decode_layout(llama: Llama) -> DecodeLayout:
    """The layout of a model in any form; adapters and masks are folded.

    On a mesh projections stay apart: side by side, their outputs would be split across heads.
    """
    join = current_mesh() is None
    blocks = tuple(_block(block, join) for block in single_blocks(llama))
    return DecodeLayout(llama.replace(blocks=()), blocks)


def _block(block: Block, join: bool) -> DecodeBlock:
    attn, mlp = block.attn, block.mlp
    return DecodeBlock(
        attn_norm=block.attn_norm,
        qkv=None if attn is None else _projections((attn.q, attn.k, attn.v), join),
        q_norm=None if attn is None else attn.q_norm,
        k_norm=None if attn is None else attn.k_norm,
        o=_plain(attn, "o"),
        mlp_norm=block.mlp_norm,
        gate_up=None if mlp is None else _projections((mlp.gate, mlp.up), join),
        down=_plain(mlp, "down"),
    )


def _plain(owner: Attention | Mlp | None, name: str) -> Linear | None:
    if owner is None:
        return None
    layer: Linear = getattr(owner, name)
    return layer.replace(kernel=fold(layer.kernel))


def _projections(layers: Sequence[Linear], join: bool) -> Projections:
    sizes = tuple(kernel_shape(layer.kernel)[-1] for layer in layers)
    parts = tuple(layer.replace(kernel=fold(layer.kernel)) for layer in layers)
    biased = {part.bias is not None for part in parts}
    if not join or len(biased) > 1:
        return Projections(parts, sizes)
    kernel = jnp.concatenate([part.kernel for part in parts], axis=-1)
    bias = jnp.concatenate([part.bias for part in parts]) if biased == {True} else None
    return Projections((Linear(kernel, bias),), sizes)


def project(x: Float[Array, "*batch in"], projections: Projections) -> list[Array]:
    """The outputs of all projections of x."""
    if len(projections.parts) > 1:
        return [affine(x, part) for part in projections.parts]
    (part,) = projections.parts
    starts = [sum(projections.sizes[:i]) for i in range(1, len(projections.sizes))]
    return jnp.split(affine(x, part), starts, axis=-1)


def attention_inputs(
    block: DecodeBlock, h: Float[Array, "batch length hidden"], ctx: Context
) -> tuple[Q, KV, KV]:
    """Rotated q and k, and v, of the residual stream before a block that has attention."""
    x = rms_norm(h, block.attn_norm, ctx.eps, ctx.norm_offset)
    heads = x.shape[:2] + (-1, ctx.head_dim)
    q, k, v = (part.reshape(heads) for part in project(x, block.qkv))
    if block.q_norm is not None:
        q, k = rms_norm(q, block.q_norm, ctx.eps), rms_norm(k, block.k_norm, ctx.eps)
    return apply_rope(q, ctx.cos, ctx.sin), apply_rope(k, ctx.cos, ctx.sin), v


def mlp_added(
    block: DecodeBlock, h: Float[Array, "batch length hidden"], ctx: Context
) -> Float[Array, "batch length hidden"]:
    """What the feed-forward network of a block that has one adds to the residual stream."""
    gate, up = project(rms_norm(h, block.mlp_norm, ctx.eps, ctx.norm_offset), block.gate_up)
    return affine(ACTIVATIONS[ctx.activation](gate) * up, block.down)
