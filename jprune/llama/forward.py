"""The forward pass, as functions over the tree; tuple and stacked forms alike."""

from functools import partial

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, Key

from jprune.llama.attention import attend
from jprune.llama.config import LlamaConfig
from jprune.llama.kernels import ArrayLike, Lora, Masked, linear, matmul
from jprune.llama.model import Block, Linear, Llama, Run
from jprune.llama.rope import apply_rope, rope_table


@struct.dataclass
class Context:
    """What every block of a pass shares: rotation tables, static widths, attention kernel."""

    cos: Float[Array, "length half"]
    sin: Float[Array, "length half"]
    head_dim: int = struct.field(pytree_node=False)
    eps: float = struct.field(pytree_node=False)
    attention: str = struct.field(pytree_node=False, default="auto")


def context(config: LlamaConfig, length: int, attention: str = "auto") -> Context:
    """The context of a pass over windows of `length` tokens."""
    cos, sin = rope_table(config.rope, config.head_dim, length)
    return Context(cos, sin, config.head_dim, config.rms_norm_eps, attention)


def rms_norm(
    x: Float[Array, "... hidden"], weight: Float[Array, " hidden"], eps: float
) -> Float[Array, "... hidden"]:
    """weight * x / sqrt(mean(x^2) + eps), the quotient in float32 and rounded to x's dtype.

    Reference: Zhang and Sennrich, RMSNorm (arXiv 1910.07467), equation 4.
    """
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    return weight * wide.astype(x.dtype)


def affine(x: Array, layer: Linear, key: Key[Array, ""] | None = None) -> Array:
    """x W + bias."""
    y = linear(x, layer.kernel, key=key)
    return y if layer.bias is None else y + layer.bias


def _keys(key: Key[Array, ""] | None, count: int):
    return [None] * count if key is None else list(jax.random.split(key, count))


def embed(
    llama: Llama, ids: Int[ArrayLike, "*batch length"]
) -> Float[Array, "*batch length hidden"]:
    """Token embeddings: what the first block reads."""
    return llama.embed[ids]


def attention_out(
    block: Block,
    h: Float[Array, "batch length hidden"],
    ctx: Context,
    key: Key[Array, ""] | None = None,
) -> Float[Array, "batch length hidden"]:
    """What the block's attention adds to the residual stream `h`."""
    attn = block.attn
    q_key, k_key, v_key, o_key = _keys(key, 4)
    x = rms_norm(h, block.attn_norm, ctx.eps)
    heads = x.shape[:2] + (-1, ctx.head_dim)
    q = apply_rope(affine(x, attn.q, q_key).reshape(heads), ctx.cos, ctx.sin)
    k = apply_rope(affine(x, attn.k, k_key).reshape(heads), ctx.cos, ctx.sin)
    v = affine(x, attn.v, v_key).reshape(heads)
    out = attend(q, k, v, ctx.attention)
    return affine(out.reshape(*x.shape[:2], -1), attn.o, o_key)


def mlp_out(
    block: Block,
    h: Float[Array, "batch length hidden"],
    ctx: Context,
    key: Key[Array, ""] | None = None,
) -> Float[Array, "batch length hidden"]:
    """What the block's feed-forward network adds to the residual stream `h`."""
    mlp = block.mlp
    gate_key, up_key, down_key = _keys(key, 3)
    x = rms_norm(h, block.mlp_norm, ctx.eps)
    hidden = jax.nn.silu(affine(x, mlp.gate, gate_key)) * affine(x, mlp.up, up_key)
    return affine(hidden, mlp.down, down_key)


def apply_block(
    block: Block,
    h: Float[Array, "batch length hidden"],
    ctx: Context,
    key: Key[Array, ""] | None = None,
) -> Float[Array, "batch length hidden"]:
    """The residual stream after one block."""
    attn_key, mlp_key = _keys(key, 2)
    if block.attn is not None:
        h = h + attention_out(block, h, ctx, attn_key)
    if block.mlp is not None:
        h = h + mlp_out(block, h, ctx, mlp_key)
    return h


def run_blocks(
    llama: Llama,
    h: Float[Array, "batch length hidden"],
    ctx: Context,
    *,
    remat: bool = False,
    key: Key[Array, ""] | None = None,
) -> Float[Array, "batch length hidden"]:
    """The residual stream after all blocks.

    Args:
      llama: the model, its blocks as a tuple (unrolled) or stacked (`lax.scan` over each run).
      h: the residual stream before the first block.
      ctx: see `context`.
      remat: recompute each block's activations in the backward pass instead of keeping them.
      key: dropout key of adapters, for training.
    """
    step = partial(apply_block, ctx=ctx)
    if remat:
        step = jax.checkpoint(step)
    for part, part_key in zip(llama.blocks, _keys(key, len(llama.blocks)), strict=True):
        if isinstance(part, Run):
            keys = None if part_key is None else jax.random.split(part_key, len(part))
            h, _ = jax.lax.scan(lambda h, x: (step(x[0], h, key=x[1]), None), h, (part.block, keys))
        else:
            h = step(part, h, key=part_key)
    return h


def hidden_states(
    llama: Llama,
    ids: Int[ArrayLike, "batch length"],
    *,
    attention: str = "auto",
    remat: bool = False,
    key: Key[Array, ""] | None = None,
) -> Float[Array, "batch length hidden"]:
    """The residual stream after the last block, before the final norm."""
    ctx = context(llama.config, ids.shape[1], attention)
    return run_blocks(llama, embed(llama, ids), ctx, remat=remat, key=key)


def unembed(llama: Llama, h: Float[Array, "... length hidden"]) -> Float[Array, "... length vocab"]:
    """Float32 logits of the residual stream after the last block: final norm, then the head."""
    x = rms_norm(h, llama.final_norm, llama.config.rms_norm_eps)
    kernel = llama.embed.T if llama.lm_head is None else llama.lm_head.kernel
    if isinstance(kernel, Lora | Masked):
        return linear(x, kernel).astype(jnp.float32)
    # The product is accumulated in float32 anyway; rounding it to bfloat16 would only lose digits.
    return matmul(x, kernel, jnp.float32)


def forward(
    llama: Llama, ids: Int[ArrayLike, "batch length"], *, attention: str = "auto"
) -> Float[Array, "batch length vocab"]:
    """Float32 next-token logits.

    Args:
      llama: a model in tuple or stacked form.
      ids: token ids.
      attention: one of `jprune.llama.attention.IMPLEMENTATIONS`.
    """
    return unembed(llama, hidden_states(llama, ids, attention=attention))
