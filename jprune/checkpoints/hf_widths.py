"""The one width that a Hugging Face config has for all blocks, and what is padded to reach it."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax

from jprune.checkpoints.families import FAMILIES, accepts_heads
from jprune.core.errors import InputError
from jprune.llama.config import LlamaConfig
from jprune.llama.kernels import is_kernel, kernel_shape
from jprune.llama.model import Attention, Block, Linear, Llama, Mlp, Origin, Run
from jprune.llama.names import leaf_name
from jprune.llama.params import block_spec
from jprune.llama.widths import widths


def uniform_config(llama: Llama) -> LlamaConfig:
    """The config that holds all blocks: their greatest widths, their biases, and the tie.

    Where stock transformers refuses that number of heads, it is the next greater one that it takes.

    Raises:
      InputError: blocks that differ in query heads per key-value head, which zeros cannot level.
    """
    config = llama.config
    attns = [part for part in _sublayers(llama) if isinstance(part, Attention)]
    mlps = [part for part in _sublayers(llama) if isinstance(part, Mlp)]
    bias = any(_has_bias((attn.q, attn.k, attn.v)) for attn in attns)
    output_bias = any(_has_bias(attn.o) for attn in attns)
    if "attention_bias" in FAMILIES[config.family].written:  # one key for all four
        bias = output_bias = bias or output_bias
    if not attns:  # nothing to go by
        bias, output_bias = config.attention_bias, config.output_bias
    heads, kv_heads = _heads(llama)
    neurons = max((width.neurons for width in widths(llama)), default=0)
    return dataclasses.replace(
        config,
        vocab_size=llama.embed.shape[0],
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        intermediate_size=neurons or config.intermediate_size,
        attention_bias=bias,
        output_bias=output_bias,
        mlp_bias=any(_has_bias(mlp) for mlp in mlps) if mlps else config.mlp_bias,
        tie_word_embeddings=llama.lm_head is None,
    )


def padded_widths(llama: Llama) -> list[str]:
    """What the blocks have that an export widens by zeros, in words, one item per block.

    Blocks are numbered as they are written: those without either sublayer are left out.
    """
    config, notes = uniform_config(llama), []
    written = [pair for pair in zip(widths(llama), llama.origins, strict=True) if any(pair[0])]
    for number, (width, origin) in enumerate(written):
        parts = []
        if 0 < width.heads < config.num_key_value_heads:
            heads = width.heads * width.group
            parts.append(f"{heads} of {config.num_attention_heads} heads")
        if 0 < width.neurons < config.intermediate_size:
            parts.append(f"{width.neurons} of {config.intermediate_size} neurons")
        if parts:
            notes.append(f"layer {number}{origin_words(origin)} has {' and '.join(parts)}")
    return notes


def count_padding(blocks: Sequence[Block], config: LlamaConfig) -> int:
    """How many zeros widen the sublayers of the blocks to `config`."""
    spec = params_by_name(block_spec(config, len(blocks)))
    return sum(
        math.prod(spec[name].shape) - math.prod(kernel_shape(leaf))
        for block in blocks
        for name, leaf in params_by_name(block).items()
    )


def origin_words(origin: Origin | None) -> str:
    """Where a block comes from, to be put behind its number."""
    return f" (layer {origin.index} of {origin.source})" if origin else ""


def params_by_name(block: Block) -> dict[str, Any]:
    """The parameters of a block by name; adapters and masks count as one with their weight."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(block, is_leaf=is_kernel)
    return {leaf_name(path): leaf for path, leaf in leaves}


def _heads(llama: Llama) -> tuple[int, int]:
    """Query and key-value heads that hold those of every block."""
    config = llama.config
    found = [width for width in widths(llama) if width.heads]
    groups = sorted({width.group for width in found})
    if not groups:
        return config.num_attention_heads, config.num_key_value_heads
    if len(groups) > 1:
        raise InputError(
            f"blocks differ in query heads per key-value head ({', '.join(map(str, groups))}), "
            "which has no Hugging Face form; save with Orbax"
        )
    most, (group,) = max(width.heads for width in found), groups
    more = range(most, config.hidden_size // group + 1)
    # Some versions of transformers take what others refuse: better unpadded than not at all.
    kv_heads = next((n for n in more if accepts_heads(config, n * group)), most)
    return kv_heads * group, kv_heads


def _sublayers(llama: Llama) -> list[Attention | Mlp]:
    blocks = [part.block if isinstance(part, Run) else part for part in llama.blocks]
    return [part for block in blocks for part in (block.attn, block.mlp) if part is not None]


def _has_bias(linears: Any) -> bool:
    is_linear = lambda x: isinstance(x, Linear)  # noqa: E731
    found = jax.tree.leaves(linears, is_leaf=is_linear)
    return any(isinstance(x, Linear) and x.bias is not None for x in found)
