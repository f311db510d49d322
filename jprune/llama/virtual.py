"""Virtual models: a stack of blocks, and a plan of arrays that says which of them run.

A plan is data, so one compiled program evaluates every model that can be cut from the stack. What
a plan means and what the materialised model computes are the same thing up to rounding.
"""

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jprune.core.errors import InputError
from jprune.llama.forward import Context, attention_out, mlp_out, residual
from jprune.llama.kernels import Leaf, fold_kernels, is_kernel
from jprune.llama.model import Attention, Block, Linear, Llama, Mlp, Run
from jprune.llama.stack import stack, structure, unstack
from jprune.llama.widths import block_width


@struct.dataclass
class Plan:
    """What each step of a virtual model runs.

    Attributes:
      layer: index into the stack, per step [steps].
      attn: whether the step's attention runs [steps].
      mlp: whether the step's feed-forward network runs [steps].
    """

    layer: Leaf
    attn: Leaf
    mlp: Leaf


def virtual(llama: Llama) -> tuple[Llama, Plan]:
    """`llama` as one homogeneous run, and the plan under which that run computes what it does.

    Adapters and masks are folded; missing sublayers and narrower widths are filled with zeros.

    Raises:
      InputError: blocks whose query heads per key-value head differ, which zeros cannot level.
    """
    if len(llama.blocks) == 1 and isinstance(llama.blocks[0], Run):
        block = llama.blocks[0].block
        whole = block.attn is not None and block.mlp is not None
        if whole and not any(map(is_kernel, jax.tree.leaves(block, is_leaf=is_kernel))):
            return llama, full_plan(llama.num_layers)
    llama = unstack(llama)
    blocks = [fold_kernels(block) for block in llama.blocks]
    plan = Plan(
        layer=jnp.arange(len(blocks)),
        attn=jnp.asarray([block.attn is not None for block in blocks]),
        mlp=jnp.asarray([block.mlp is not None for block in blocks]),
    )
    if len({structure(block) for block in blocks}) > 1 or not (plan.attn[0] and plan.mlp[0]):
        blocks = _homogeneous(blocks, llama.config.head_dim)
    return stack(llama.replace(blocks=tuple(blocks))), plan


def full_plan(num_layers: int) -> Plan:
    """Every layer in order, both sublayers on."""
    on = jnp.ones(num_layers, bool)
    return Plan(layer=jnp.arange(num_layers), attn=on, mlp=on)


def source_block(llama: Llama, layer: Int[Array, ""]) -> Block:
    """Block `layer` of a virtual model's stack."""
    return jax.tree.map(
        lambda leaf: jax.lax.dynamic_index_in_dim(leaf, layer, keepdims=False),
        llama.blocks[0].block,
    )


def gated_block(
    block: Block,
    h: Float[Array, "batch length hidden"],
    ctx: Context,
    attn: Bool[Array, ""],
    mlp: Bool[Array, ""],
) -> Float[Array, "batch length hidden"]:
    """The residual stream after those sublayers of `block` whose gates are on.

    Gates select: a sublayer that is off costs nothing and its numbers, even NaN, do not matter.
    """
    h = jax.lax.cond(attn, lambda h: h + attention_out(block, h, ctx), lambda h: h, h)
    h = jax.lax.cond(mlp, lambda h: h + mlp_out(block, h, ctx), lambda h: h, h)
    return residual(h)


def run_plan(
    llama: Llama, plan: Plan, h: Float[Array, "batch length hidden"], ctx: Context
) -> Float[Array, "batch length hidden"]:
    """The residual stream after all steps of `plan`, on the stack of a virtual model."""

    def step(h, row: Plan):
        block = source_block(llama, row.layer)
        return gated_block(block, h, ctx, row.attn, row.mlp), None

    return jax.lax.scan(step, h, plan)[0]


def _homogeneous(blocks: list[Block], head_dim: int) -> list[Block]:
    """Blocks of one structure that compute the same, given the gates."""
    groups = {block_width(block, head_dim).group for block in blocks if block.attn is not None}
    if len(groups) > 1:
        raise InputError(f"blocks differ in query heads per key-value head: {sorted(groups)}")
    norms = (norm for block in blocks for norm in (block.attn_norm, block.mlp_norm))
    norm = jnp.ones_like(next(norm for norm in norms if norm is not None))
    attns = [block.attn for block in blocks if block.attn is not None]
    mlps = [block.mlp for block in blocks if block.mlp is not None]
    attn_shape = _widest(attns or [_narrow_attention(norm, head_dim)])
    mlp_shape = _widest(mlps or [_narrow_mlp(norm)])
    return [
        block.replace(
            attn_norm=norm if block.attn is None else block.attn_norm,
            attn=_pad(block.attn, attn_shape),
            mlp_norm=norm if block.mlp is None else block.mlp_norm,
            mlp=_pad(block.mlp, mlp_shape),
        )
        for block in blocks
    ]


def _narrow_attention(norm: Array, head_dim: int) -> Attention:
    """Shapes of the least attention, for models that have none left."""
    wide = Linear(jax.ShapeDtypeStruct((norm.size, head_dim), norm.dtype))
    return Attention(
        wide, wide, wide, Linear(jax.ShapeDtypeStruct(wide.kernel.shape[::-1], norm.dtype))
    )


def _narrow_mlp(norm: Array) -> Mlp:
    """Shapes of the least feed-forward network, for models that have none left."""
    wide = Linear(jax.ShapeDtypeStruct((norm.size, 1), norm.dtype))
    return Mlp(wide, wide, Linear(jax.ShapeDtypeStruct((1, norm.size), norm.dtype)))


def _widest(sublayers: list) -> Attention | Mlp:
    """The shapes that hold all of `sublayers`: zero arrays, which padding fills from."""

    def widest(*linears: Linear | Leaf) -> Linear | Leaf:
        if not isinstance(linears[0], Linear):  # a norm of q or k, as wide as a head everywhere
            return jax.ShapeDtypeStruct(linears[0].shape, linears[0].dtype)
        dtype = linears[0].kernel.dtype
        rows, columns = (max(linear.kernel.shape[axis] for linear in linears) for axis in (0, 1))
        bias = any(linear.bias is not None for linear in linears)
        return Linear(
            jax.ShapeDtypeStruct((rows, columns), dtype),
            jax.ShapeDtypeStruct((columns,), dtype) if bias else None,
        )

    return jax.tree.map(widest, *sublayers, is_leaf=lambda x: isinstance(x, Linear))


def _pad(sublayer, shapes):
    """`sublayer` (or nothing) in the upper left corner of zeros of `shapes`."""

    def fill(shape, array=None):
        if array is None:
            return jnp.zeros(shape.shape, shape.dtype)
        widths = zip(shape.shape, array.shape, strict=True)
        return jnp.pad(array, [(0, n - have) for n, have in widths])

    def fill_linear(shape: Linear | Leaf, linear: Linear | Leaf | None = None) -> Linear | Leaf:
        if not isinstance(shape, Linear):
            return jnp.ones(shape.shape, shape.dtype) if linear is None else linear
        bias = None if linear is None else linear.bias
        return Linear(
            fill(shape.kernel, None if linear is None else linear.kernel),
            None if shape.bias is None else fill(shape.bias, bias),
        )

    sublayers = () if sublayer is None else (sublayer,)
    return jax.tree.map(fill_linear, shapes, *sublayers, is_leaf=lambda x: isinstance(x, Linear))
