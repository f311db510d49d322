"""Llama pytrees as Hugging Face checkpoints that stock transformers loads."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jprune.checkpoints import hf_names
from jprune.checkpoints.dtypes import as_dtype
from jprune.checkpoints.hf_config import export_config, stored_dtype
from jprune.checkpoints.hf_widths import (
    count_padding,
    origin_words,
    padded_widths,
    params_by_name,
    uniform_config,
)
from jprune.checkpoints.manifest import EMPTY_RECIPE
from jprune.checkpoints.model_card import model_card
from jprune.checkpoints.safetensors_io import MAX_SHARD_BYTES, PlannedTensor, write_checkpoint
from jprune.checkpoints.tokenizer import write_companions
from jprune.core.errors import InputError
from jprune.core.files import PathLike, as_path, jsonable, new_dir, write_json, write_text
from jprune.core.processes import to_host
from jprune.core.progress import log
from jprune.llama.config import LlamaConfig
from jprune.llama.kernels import fold_kernels, kernel_shape
from jprune.llama.model import Block, Llama
from jprune.llama.params import ParamSpec, block_spec
from jprune.llama.stack import cut_out, layers_of


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
    out, since it computes nothing. Nor can its layers differ in width: heads and neurons that some
    have and others lack are written as zeros, which change nothing and save nothing. Where all have
    the same, the config gets the smaller numbers.

    Args:
      path: the folder; an earlier export there is replaced, anything else is refused.
      llama: the model, in any form.
      tokenizer: a `Tokenizer`, whose folder the other files are copied from, or a tokenizer of
        transformers.
      recipe: how the model was made; its JSON form goes into recipe.json and the card.
      card: text of README.md; by default made from the recipe and the figures.
      strict: refuse a model with removed sublayers or padded widths.
      max_shard_bytes: the most data in one safetensors file.
      dtype: of the written tensors: a dtype or its name, `"checkpoint"` for the one that the
        model's config.json came with, None for that of the arrays.
      figures: results for the card, see `model_card`.

    Raises:
      InputError: removed sublayers or blocks of different widths with `strict`, blocks that differ
        in query heads per key-value head, no blocks, or a folder that jprune did not write in the
        place of `path`.
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
    padded = padded_widths(llama)
    if padded and strict:
        raise InputError(
            f"layers of different widths ({padded[0]}, for one) have no Hugging Face form; "
            "save with Orbax, or export without --strict to pad them with zeros"
        )
    target = _export_dtype(llama, dtype)
    kept = [index if b.origin is None else b.origin.index for index, b in enumerate(blocks)]
    values = export_config(config, kept, target.name)
    tensors = plan_tensors(llama, config, blocks, target)
    for note in notes:
        log.warning("%s: written with zero projections, since Llama cannot leave it out", note)
    if padded:
        log.warning(
            "%d of %d layers are padded with zeros to %d heads and %d neurons, since Llama has one "
            "width for all: the %s padded weights save nothing; Orbax keeps the true widths",
            *(len(padded), len(blocks), config.num_attention_heads, config.intermediate_size),
            f"{count_padding(blocks, config):,}",
        )
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
      config: the widths, see `uniform_config`; narrower blocks are padded with zeros.
      blocks: the blocks to write, numbered from 0; leaves may be `LayerSlice`.
      dtype: of the written tensors.
    """
    spec = params_by_name(block_spec(config, len(blocks)))
    plan = [_planned("embed_tokens.embedding", llama.embed, dtype)]
    for number, block in enumerate(blocks):
        present = params_by_name(block)
        for name, declared in spec.items():
            full = f"layers.{number}.{name}"
            if name in present:
                plan.append(_planned(full, present[name], dtype, declared.shape))
            else:
                plan.append(_constant(full, declared, dtype))
    plan.append(_planned("norm.weight", llama.final_norm, dtype))
    if llama.lm_head is not None:
        plan.append(_planned("lm_head.kernel", llama.lm_head.kernel, dtype))
    return plan


def zeroed_sublayers(blocks: Sequence[Block]) -> list[str]:
    """What is removed from the blocks, in words, one item per sublayer."""
    notes = []
    for number, block in enumerate(blocks):
        for part, sublayer in (("attention", block.attn), ("mlp", block.mlp)):
            if sublayer is None:
                notes.append(f"{part} of layer {number}{origin_words(block.origin)}")
    return notes


def _export_dtype(llama: Llama, dtype: Any) -> np.dtype:
    named = (
        stored_dtype(llama.config) if isinstance(dtype, str) and dtype == "checkpoint" else dtype
    )
    return as_dtype(llama.dtype if named is None else named)


def _planned(
    name: str, leaf: Any, dtype: np.dtype, shape: tuple[int, ...] | None = None
) -> PlannedTensor:
    """A parameter in the upper left corner of zeros of `shape`, by default of its own."""
    own = kernel_shape(leaf)
    wide = own if shape is None else shape
    padding = [(0, n - have) for n, have in zip(wide, own, strict=True)]

    def read() -> np.ndarray:
        array = to_host(fold_kernels(cut_out(leaf)))
        array = np.pad(array, padding) if wide != own else array
        return hf_names.convert(array, dtype, transpose=hf_names.is_transposed(name))

    stored = hf_names.tensor_shape(name, wide)
    return PlannedTensor(hf_names.tensor_name(name), stored, dtype, read)


def _constant(name: str, spec: ParamSpec, dtype: np.dtype) -> PlannedTensor:
    """What stands for a parameter that is not there: norms one, everything else zero."""
    fill = spec.fill if spec.std is None else 0.0
    shape = hf_names.tensor_shape(name, spec.shape)
    return PlannedTensor(
        hf_names.tensor_name(name), shape, dtype, lambda: np.full(shape, fill, dtype)
    )
