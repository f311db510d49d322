"""The one declaration of every parameter: shape, logical axes and initialiser.

Abstract models, initial weights and shardings are all read off it.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jprune.llama.config import LlamaConfig
from jprune.llama.model import Attention, Block, Linear, Llama, Mlp, Origin, Run
from jprune.llama.names import named_params

INIT_STD = 0.02


@dataclasses.dataclass(frozen=True)
class ParamSpec:
    """One parameter: its shape, a logical name for each axis, and how it starts.

    Attributes:
      std: standard deviation of the normal initialiser; None means the constant `fill`.
    """

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    std: float | None = None
    fill: float = 1.0

    def stacked(self, layers: int) -> "ParamSpec":
        """The same parameter of `layers` blocks, along a new leading axis."""
        return dataclasses.replace(self, shape=(layers, *self.shape), axes=("layers", *self.axes))


def _linear(rows: int, columns: int, axes: tuple[str, str], bias: bool, std: float) -> Linear:
    return Linear(
        kernel=ParamSpec((rows, columns), axes, std),
        bias=ParamSpec((columns,), axes[1:], fill=0.0) if bias else None,
    )


def block_spec(config: LlamaConfig, num_layers: int) -> Block:
    """A block of `ParamSpec`; `num_layers` scales the two projections that end on the residual.

    Reference: Radford et al., GPT-2 (2019), section 2.3: residual weights by 1 / sqrt(2 layers).
    """
    hidden, mlp = config.hidden_size, config.intermediate_size
    heads = config.num_attention_heads * config.head_dim
    kv_heads = config.num_key_value_heads * config.head_dim
    residual_std = INIT_STD / math.sqrt(2 * max(num_layers, 1))
    attn_linear = partial(_linear, bias=config.attention_bias)
    mlp_linear = partial(_linear, bias=config.mlp_bias)
    norm = ParamSpec((hidden,), (None,), fill=1 - config.norm_offset)
    head_norm = ParamSpec((config.head_dim,), (None,)) if config.qk_norm else None
    return Block(
        attn_norm=norm,
        attn=Attention(
            q=attn_linear(hidden, heads, ("hidden", "heads"), std=INIT_STD),
            k=attn_linear(hidden, kv_heads, ("hidden", "kv_heads"), std=INIT_STD),
            v=attn_linear(hidden, kv_heads, ("hidden", "kv_heads"), std=INIT_STD),
            o=_linear(
                heads, hidden, ("heads", "hidden"), bias=config.output_bias, std=residual_std
            ),
            q_norm=head_norm,
            k_norm=head_norm,
        ),
        mlp_norm=norm,
        mlp=Mlp(
            gate=mlp_linear(hidden, mlp, ("hidden", "mlp"), std=INIT_STD),
            up=mlp_linear(hidden, mlp, ("hidden", "mlp"), std=INIT_STD),
            down=mlp_linear(mlp, hidden, ("mlp", "hidden"), std=residual_std),
        ),
    )


def llama_spec(
    config: LlamaConfig, num_layers: int, *, source: str = "init", stacked: bool = False
) -> Llama:
    """A Llama of `ParamSpec`, its blocks as a tuple or stacked in one run."""
    block = block_spec(config, num_layers)
    origins = tuple(Origin(source, index) for index in range(num_layers))
    if stacked:
        blocks = (Run(jax.tree.map(lambda spec: spec.stacked(num_layers), block), origins),)
    else:
        blocks = tuple(block.replace(origin=origin) for origin in origins)
    head = Linear(ParamSpec((config.hidden_size, config.vocab_size), ("hidden", "vocab"), INIT_STD))
    return Llama(
        config=config,
        embed=ParamSpec((config.vocab_size, config.hidden_size), ("vocab", "hidden"), INIT_STD),
        blocks=blocks,
        final_norm=ParamSpec((config.hidden_size,), (None,), fill=1 - config.norm_offset),
        lm_head=None if config.tie_word_embeddings else head,
    )


def abstract(config: LlamaConfig, num_layers: int, dtype=jnp.float32, **kwargs) -> Llama:
    """The model's shapes without its arrays; keyword arguments go to `llama_spec`."""
    spec = llama_spec(config, num_layers, **kwargs)
    return jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, dtype), spec)


def init(
    config: LlamaConfig,
    num_layers: int,
    key: Key[Array, ""],
    dtype=jnp.float32,
    *,
    place: Callable[[str, tuple[int, ...]], jax.sharding.Sharding | None] = lambda *leaf: None,
    **kwargs,
) -> Llama:
    """A model with random weights: normal with std 0.02, norms neutral, biases 0.

    Args:
      config: the hyperparameters.
      num_layers: how many blocks.
      key: seeds every parameter, each by its place in the tree.
      dtype: of all parameters.
      place: the sharding that a parameter of a name and shape is created under, for example
        `jprune.llama.sharding.on_mesh(mesh, config)`; by default the default device's.
      **kwargs: for `llama_spec` (`source`, `stacked`).
    """
    llama = llama_spec(config, num_layers, **kwargs)
    specs = named_params(llama)
    keys = jax.random.split(key, len(specs))
    leaves = [
        _drawer(spec, jnp.dtype(dtype), place(name, spec.shape))(k)
        for (name, spec), k in zip(specs.items(), keys, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(llama), leaves)


@functools.cache  # one program for all blocks
def _drawer(spec: ParamSpec, dtype, sharding) -> Callable[[Key[Array, ""]], Array]:
    def draw(key):
        if spec.std is None:
            return jnp.full(spec.shape, spec.fill, dtype)
        return (spec.std * jax.random.normal(key, spec.shape, jnp.float32)).astype(dtype)

    return jax.jit(draw, out_shardings=sharding)
