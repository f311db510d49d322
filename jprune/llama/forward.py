"""The forward pass, as functions over the tree; tuple and stacked forms alike."""

from collections.abc import Callable, Mapping
from functools import partial

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int, Key

from jprune.core.mesh import constrain
from jprune.llama.attention import attend
from jprune.llama.config import LlamaConfig
from jprune.llama.kernels import ArrayLike, Lora, Masked, linear, matmul
from jprune.llama.model import Block, Linear, Llama, Run
from jprune.llama.rope import apply_rope, positions, rope_table

ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "silu": jax.nn.silu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_pytorch_tanh": partial(jax.nn.gelu, approximate=True),
}


Tap = Callable[[str, Array], None]


@struct.dataclass
class Context:
    """What every block of a pass shares: rotation tables, static widths, attention kernel.

    The tables are those of all windows, or with `segments` of each one its own. Where `visible` is
    given, it says which positions each one attends to, in place of a causal mask, a sliding window
    and segments.
    """

    cos: Float[Array, "*batch length half"]
    sin: Float[Array, "*batch length half"]
    head_dim: int = struct.field(pytree_node=False)
    eps: float = struct.field(pytree_node=False)
    attention: str = struct.field(pytree_node=False, default="auto")
    window: int | None = struct.field(pytree_node=False, default=None)
    norm_offset: float = struct.field(pytree_node=False, default=0.0)
    activation: str = struct.field(pytree_node=False, default="silu")
    segments: Int[Array, "batch length"] | None = None
    visible: Bool[Array, "batch length length"] | None = None


def context(
    config: LlamaConfig,
    length: int,
    attention: str = "auto",
    segments: Int[ArrayLike, "batch length"] | None = None,
) -> Context:
    """The context of a pass over windows of `length` tokens, perhaps of several documents each."""
    cos, sin = rope_table(config.rope, config.head_dim, length)
    if segments is not None:
        segments = jnp.asarray(segments)
        cos, sin = (table[positions(segments)] for table in (cos, sin))
    return Context(
        *(cos, sin, config.head_dim, config.rms_norm_eps, attention),
        window=config.sliding_window,
        norm_offset=config.norm_offset,
        activation=config.hidden_act,
        segments=segments,
    )


def rms_norm(
    x: Float[Array, "... hidden"],
    weight: Float[Array, " hidden"],
    eps: float,
    offset: float = 0.0,
) -> Float[Array, "... hidden"]:
    """(offset + weight) * x / sqrt(mean(x^2) + eps), the quotient in float32.

    Without an offset the quotient is rounded to x's dtype before it is multiplied, with one the
    product is: so were the models trained that have the one or the other.

    Reference: Zhang and Sennrich, RMSNorm (arXiv 1910.07467), equation 4.
    """
    wide = x.astype(jnp.float32)
    wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    if offset:
        return ((offset + weight.astype(jnp.float32)) * wide).astype(x.dtype)
    return weight * wide.astype(x.dtype)


def affine(x: Array, layer: Linear, key: Key[Array, ""] | None = None) -> Array:
    """x W + bias."""
    y = linear(x, layer.kernel, key=key)
    return y if layer.bias is None else y + layer.bias


def ignore(name: str, x: Array) -> None:
    """The tap that takes nothing."""


def _keys(key: Key[Array, ""] | None, count: int):
    return [None] * count if key is None else list(jax.random.split(key, count))


def embed(
    llama: Llama, ids: Int[ArrayLike, "*batch length"]
) -> Float[Array, "*batch length hidden"]:
    """Token embeddings: what the first block reads."""
    # Looking up in a table that is split by vocabulary alone moves no activations of other windows.
    h = constrain(llama.embed, "vocab", None)[ids]
    if llama.config.scale_embeddings:
        h = h * jnp.asarray(llama.config.hidden_size**0.5, h.dtype)  # rounded, as trained
    return residual(h)


def residual(h: Float[Array, "*batch length hidden"]) -> Float[Array, "*batch length hidden"]:
    """A residual stream as it lies on a mesh: windows apart, each one's numbers together.

    Said after every block, so that weights that are split over the same devices as the batch are
    gathered for their product, and not the activations.
    """
    axes = (*(None for _ in h.shape[:-3]), "batch", None, None)
    return constrain(h, *axes[-h.ndim :])


def attention_out(
    block: Block,
    h: Float[Array, "batch length hidden"],
    ctx: Context,
    key: Key[Array, ""] | None = None,
    tap: Tap = ignore,
) -> Float[Array, "batch length hidden"]:
    """What the block's attention adds to the residual stream `h`."""
    attn = block.attn
    q_key, k_key, v_key, o_key = _keys(key, 4)
    x = rms_norm(h, block.attn_norm, ctx.eps, ctx.norm_offset)
    tap("attn_in", x)
    heads = x.shape[:2] + (-1, ctx.head_dim)
    q, k, v = (
        affine(x, layer, one).reshape(heads)
        for layer, one in ((attn.q, q_key), (attn.k, k_key), (attn.v, v_key))
    )
    if attn.q_norm is not None:
        q, k = rms_norm(q, attn.q_norm, ctx.eps), rms_norm(k, attn.k_norm, ctx.eps)
    q, k = apply_rope(q, ctx.cos, ctx.sin), apply_rope(k, ctx.cos, ctx.sin)
    out = attend(q, k, v, ctx.attention, ctx.window, ctx.segments, ctx.visible)
    out = out.reshape(*x.shape[:2], -1)
    tap("attn_out", out)
    return affine(out, attn.o, o_key)


def mlp_out(
    block: Block,
    h: Float[Array, "batch length hidden"],
    ctx: Context,
    key: Key[Array, ""] | None = None,
    tap: Tap = ignore,
) -> Float[Array, "batch length hidden"]:
    """What the block's feed-forward network adds to the residual stream `h`."""
    mlp = block.mlp
    gate_key, up_key, down_key = _keys(key, 3)
    x = rms_norm(h, block.mlp_norm, ctx.eps, ctx.norm_offset)
    tap("mlp_in", x)
    activation = ACTIVATIONS[ctx.activation]
    hidden = activation(affine(x, mlp.gate, gate_key)) * affine(x, mlp.up, up_key)
    tap("mlp_out", hidden)
    return affine(hidden, mlp.down, down_key)


def apply_block(
    block: Block,
    h: Float[Array, "batch length hidden"],
    ctx: Context,
    key: Key[Array, ""] | None = None,
    tap: Tap = ignore,
) -> Float[Array, "batch length hidden"]:
    """The residual stream after one block.

    Args:
      block: the block.
      h: the residual stream before it.
      ctx: see `context`.
      key: dropout key of adapters, for training.
      tap: is shown what each group of linears reads, by the names of `jprune.llama.linears`.
    """
    attn_key, mlp_key = _keys(key, 2)
    if block.attn is not None:
        h = h + attention_out(block, h, ctx, attn_key, tap)
    if block.mlp is not None:
        h = h + mlp_out(block, h, ctx, mlp_key, tap)
    return residual(h)


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
    return _through(llama, h, ctx, remat=remat, key=key)[0]


def _through(
    llama: Llama,
    h: Float[Array, "batch length hidden"],
    ctx: Context,
    *,
    remat: bool,
    key: Key[Array, ""] | None,
    keep: bool = False,
) -> tuple[Float[Array, "batch length hidden"], list[Float[Array, "layers batch length hidden"]]]:
    """The residual stream after all blocks and, with `keep`, that after each, run by run."""
    step = partial(apply_block, ctx=ctx)
    if remat:
        step = jax.checkpoint(step)

    def one(h, x):
        after = step(x[0], h, key=x[1])
        return after, after if keep else None

    states = []
    for part, part_key in zip(llama.blocks, _keys(key, len(llama.blocks)), strict=True):
        if isinstance(part, Run):
            keys = None if part_key is None else jax.random.split(part_key, len(part))
            # Blocks without either sublayer have no arrays that would tell how many there are.
            h, after = jax.lax.scan(one, h, (part.block, keys), length=len(part))
        else:
            h = step(part, h, key=part_key)
            after = h[None]
        states += [after] * keep
    return h, states


def hidden_states(
    llama: Llama,
    ids: Int[ArrayLike, "batch length"],
    *,
    attention: str = "auto",
    remat: bool = False,
    key: Key[Array, ""] | None = None,
    segments: Int[ArrayLike, "batch length"] | None = None,
) -> Float[Array, "batch length hidden"]:
    """The residual stream after the last block, before the final norm.

    Args:
      llama: a model in tuple or stacked form.
      ids: token ids.
      attention: one of `jprune.llama.attention.IMPLEMENTATIONS`.
      remat: see `run_blocks`.
      key: see `run_blocks`.
      segments: the number of the document that each token is of, where a window holds several in
        turn: attention stays within a document, and positions restart at its first token.
    """
    ctx = context(llama.config, ids.shape[1], attention, segments)
    return run_blocks(llama, embed(llama, ids), ctx, remat=remat, key=key)


def block_states(
    llama: Llama,
    ids: Int[ArrayLike, "batch length"],
    *,
    attention: str = "auto",
    remat: bool = False,
    key: Key[Array, ""] | None = None,
    segments: Int[ArrayLike, "batch length"] | None = None,
) -> Float[Array, "layers batch length hidden"]:
    """The residual stream after every block; the last one is `hidden_states`, see there."""
    ctx = context(llama.config, ids.shape[1], attention, segments)
    _, states = _through(llama, embed(llama, ids), ctx, remat=remat, key=key, keep=True)
    return jnp.concatenate(states)


def unembed(llama: Llama, h: Float[Array, "... length hidden"]) -> Float[Array, "... length vocab"]:
    """Float32 logits of the residual stream after the last block: final norm, then the head."""
    x = rms_norm(h, llama.final_norm, llama.config.rms_norm_eps, llama.config.norm_offset)
    kernel = llama.embed.T if llama.lm_head is None else llama.lm_head.kernel
    if isinstance(kernel, Lora | Masked):
        return linear(x, kernel).astype(jnp.float32)
    # The product is accumulated in float32 anyway; rounding it to bfloat16 would only lose digits.
    return matmul(x, kernel, jnp.float32)


def forward(
    llama: Llama,
    ids: Int[ArrayLike, "batch length"],
    *,
    attention: str = "auto",
    segments: Int[ArrayLike, "batch length"] | None = None,
) -> Float[Array, "batch length vocab"]:
    """Float32 next-token logits. Arguments as for `hidden_states`."""
    return unembed(llama, hidden_states(llama, ids, attention=attention, segments=segments))
