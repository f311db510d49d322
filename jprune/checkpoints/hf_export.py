"""Llama pytrees as Hugging Face checkpoints that stock transformers loads."""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from jprune.checkpoints import hf_names
from jprune.checkpoints.dtypes import as_dtype
from jprune.checkpoints.families import FAMILIES
from jprune.checkpoints.hf_config import export_config, stored_dtype
from jprune.checkpoints.manifest import EMPTY_RECIPE
from jprune.checkpoints.model_card import model_card
from jprune.checkpoints.safetensors_io import MAX_SHARD_BYTES, PlannedTensor, write_checkpoint
from jprune.checkpoints.tokenizer import write_companions
from jprune.core.errors import InputError
from jprune.core.files import PathLike, as_path, jsonable, new_dir, write_json, write_text
from jprune.core.processes import to_host
from jprune.core.progress import log
from jprune.llama.config import LlamaConfig
from jprune.llama.kernels import fold_kernels, is_kernel
from jprune.llama.model import Attention, Block, Linear, Llama, Mlp, Run
from jprune.llama.names import leaf_name
from jprune.llama.params import ParamSpec, block_spec


def export_huggingface(
    path: PathLike,
    llama: Llama,
    tokenizer: Any = None,
    recipe: Any = None,
    card: str | None = None,
    *,
    strict: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    dtype: Any = None,
    figures: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Writes `llama` as a folder that `AutoModelForCausalLM.from_pretrained` loads.

    The folder holds safetensors, config.json, the tokenizer's files, chat template and generation
    config, README.md (the model card) and recipe.json. Layers are renumbered; adapters and masks
    are folded. Tensors go to disk one at a time; the folder appears when it is complete.

    Stock Llama has no form for a removed sublayer: it is written with all its projections zero, so
    that it adds nothing, and the card and the log say so. A block without either sublayer is left
    out, since it computes nothing.

    Args:
      path: the folder; an earlier export there is replaced, anything else is refused.
      llama: the model, in any form.
      tokenizer: a `Tokenizer`, whose folder the other files are copied from, or a tokenizer of
        transformers.
      recipe: how the model was made; its JSON form goes into recipe.json and the card.
      card: text of README.md; by default made from the recipe and the figures.
      strict: refuse a model with removed sublayers.
      max_shard_bytes: the most data in one safetensors file.
      dtype: of the written tensors: a dtype or its name, `"checkpoint"` for the one that the
        model's config.json came with, None for that of the arrays.
      figures: results for the card, see `model_card`.

    Raises:
      InputError: removed sublayers with `strict`, blocks of different widths, no blocks, or a
        folder that jprune did not write in the place of `path`.
    """
    path, recipe = as_path(path), jsonable(recipe)
    blocks = [block for block in layers_of(llama) if block.attn or block.mlp]
    if not blocks:
        raise InputError("nothing to export: no block with a sublayer is left")
    notes = zeroed_sublayers(blocks)
    if notes and strict:
        raise InputError(
            f"removed sublayers ({'; '.join(notes)}) have no Hugging Face form; "
            "save with Orbax, or export without --strict to write them as zeros"
        )
    config = uniform_config(llama)
    target = _export_dtype(llama, dtype)
    kept = [index if b.origin is None else b.origin.index for index, b in enumerate(blocks)]
    values = export_config(config, kept, target.name)
    tensors = plan_tensors(llama, config, blocks, target)
    for note in notes:
        log.warning("%s: written with zero projections, since Llama cannot leave it out", note)
    text = card or model_card(path.name, llama, recipe=recipe, figures=figures, notes=notes)
    try:
        with new_dir(path) as folder:
            write_checkpoint(folder, tensors, max_shard_bytes)
            write_companions(tokenizer, folder)
            write_json(folder / "config.json", values)
            write_json(folder / "recipe.json", recipe or EMPTY_RECIPE)
            write_text(folder / "README.md", text)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def plan_tensors(
    llama: Llama, config: LlamaConfig, blocks: Sequence[Block], dtype: np.dtype
) -> list[PlannedTensor]:
    """Every tensor of the export, in order, none of them read yet.

    Args:
      llama: gives the parameters outside the blocks.
      config: the widths, see `uniform_config`.
      blocks: the blocks to write, numbered from 0; leaves may be `_Layer`.
      dtype: of the written tensors.
    """
    spec = _by_name(block_spec(config, len(blocks)))
    plan = [_planned("embed_tokens.embedding", llama.embed, dtype)]
    for number, block in enumerate(blocks):
        present = _by_name(block)
        for name, declared in spec.items():
            full = f"layers.{number}.{name}"
            if name in present:
                plan.append(_planned(full, present[name], dtype))
            else:
                plan.append(_constant(full, declared, dtype))
    plan.append(_planned("norm.weight", llama.final_norm, dtype))
    if llama.lm_head is not None:
        plan.append(_planned("lm_head.kernel", llama.lm_head.kernel, dtype))
    return plan


def layers_of(llama: Llama) -> list[Block]:
    """The blocks one by one; those of a run have `LayerSlice` leaves, so nothing is copied yet."""
    blocks: list[Block] = []
    for part in llama.blocks:
        if not isinstance(part, Run):
            blocks.append(part)
            continue
        for index, origin in enumerate(part.origins):
            cut = partial(LayerSlice, index=index)
            blocks.append(jax.tree.map(cut, part.block).replace(origin=origin))
    return blocks


@dataclasses.dataclass(frozen=True)
class LayerSlice:
    """One layer of a stacked array, cut out when it is needed."""

    array: jax.Array
    index: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the layer."""
        return self.array.shape[1:]

    def read(self) -> jax.Array:
        """The layer's array."""
        return self.array[self.index]


def zeroed_sublayers(blocks: Sequence[Block]) -> list[str]:
    """What is removed from the blocks, in words, one item per sublayer."""
    notes = []
    for number, block in enumerate(blocks):
        origin = f" (layer {block.origin.index} of {block.origin.source})" if block.origin else ""
        for part, sublayer in (("attention", block.attn), ("mlp", block.mlp)):
            if sublayer is None:
                notes.append(f"{part} of layer {number}{origin}")
    return notes


def uniform_config(llama: Llama) -> LlamaConfig:
    """The config with the widths, biases and tie that the arrays have.

    Raises InputError if the blocks differ in width: config.json has one width for all.
    """
    config = llama.config
    attns = [part for part in _sublayers(llama) if isinstance(part, Attention)]
    mlps = [part for part in _sublayers(llama) if isinstance(part, Mlp)]
    heads = {_shape(attn.q.kernel)[-1] // config.head_dim for attn in attns}
    kv_heads = {_shape(attn.k.kernel)[-1] // config.head_dim for attn in attns}
    widths = {_shape(mlp.gate.kernel)[-1] for mlp in mlps}
    for what, found in (("heads", heads), ("key-value heads", kv_heads), ("neurons", widths)):
        if len(found) > 1:
            raise InputError(
                f"blocks differ in their number of {what} ({', '.join(map(str, sorted(found)))}), "
                "which has no Hugging Face form; save with Orbax"
            )
    bias = any(_has_bias((attn.q, attn.k, attn.v)) for attn in attns)
    output_bias = any(_has_bias(attn.o) for attn in attns)
    if "attention_bias" in FAMILIES[config.family].written:  # one key for all four
        bias = output_bias = bias or output_bias
    if not attns:  # nothing to go by
        bias, output_bias = config.attention_bias, config.output_bias
    return dataclasses.replace(
        config,
        vocab_size=llama.embed.shape[0],
        num_attention_heads=max(heads, default=config.num_attention_heads),
        num_key_value_heads=max(kv_heads, default=config.num_key_value_heads),
        intermediate_size=max(widths, default=config.intermediate_size),
        attention_bias=bias,
        output_bias=output_bias,
        mlp_bias=any(_has_bias(mlp) for mlp in mlps) if mlps else config.mlp_bias,
        tie_word_embeddings=llama.lm_head is None,
    )


def _sublayers(llama: Llama) -> list[Attention | Mlp]:
    blocks = [part.block if isinstance(part, Run) else part for part in llama.blocks]
    return [part for block in blocks for part in (block.attn, block.mlp) if part is not None]


def _has_bias(linears: Any) -> bool:
    is_linear = lambda x: isinstance(x, Linear)  # noqa: E731
    found = jax.tree.leaves(linears, is_leaf=is_linear)
    return any(isinstance(x, Linear) and x.bias is not None for x in found)


def _export_dtype(llama: Llama, dtype: Any) -> np.dtype:
    named = (
        stored_dtype(llama.config) if isinstance(dtype, str) and dtype == "checkpoint" else dtype
    )
    return as_dtype(llama.dtype if named is None else named)


def _shape(kernel: Any) -> tuple[int, ...]:
    """The shape of the weight under adapters and masks."""
    return _shape(kernel.kernel) if is_kernel(kernel) else kernel.shape


def _by_name(block: Block) -> dict[str, Any]:
    """The parameters of a block by name; adapters and masks count as one with their weight."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(block, is_leaf=is_kernel)
    return {leaf_name(path): leaf for path, leaf in leaves}


def _planned(name: str, leaf: Any, dtype: np.dtype) -> PlannedTensor:
    def read() -> np.ndarray:
        values = jax.tree.map(lambda x: x.read() if isinstance(x, LayerSlice) else x, leaf)
        transpose = hf_names.is_transposed(name)
        return hf_names.convert(to_host(fold_kernels(values)), dtype, transpose=transpose)

    shape = hf_names.tensor_shape(name, _shape(leaf))
    return PlannedTensor(hf_names.tensor_name(name), shape, dtype, read)


def _constant(name: str, spec: ParamSpec, dtype: np.dtype) -> PlannedTensor:
    """What stands for a parameter that is not there: norms one, everything else zero."""
    fill = spec.fill if spec.std is None else 0.0
    shape = hf_names.tensor_shape(name, spec.shape)
    return PlannedTensor(
        hf_names.tensor_name(name), shape, dtype, lambda: np.full(shape, fill, dtype)
    )
