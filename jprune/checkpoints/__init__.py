"""Checkpoints in and out: Hugging Face safetensors, Orbax, and the tokenizers beside them."""

from jprune.checkpoints.dtypes import as_dtype, target_dtype
from jprune.checkpoints.hf_export import export_huggingface
from jprune.checkpoints.hf_import import import_huggingface
from jprune.checkpoints.load import (
    Checkpoint,
    checkpoint_sha256,
    find,
    load,
    load_checkpoint,
    save,
)
from jprune.checkpoints.mask_files import load_masks, save_masks
from jprune.checkpoints.model_card import model_card
from jprune.checkpoints.orbax import restore_orbax, save_orbax
from jprune.checkpoints.peft_export import export_peft
from jprune.checkpoints.placement import free_bytes
from jprune.checkpoints.tokenizer import Tokenizer, load_tokenizer

__all__ = [
    "Checkpoint",
    "Tokenizer",
    "as_dtype",
    "checkpoint_sha256",
    "export_huggingface",
    "export_peft",
    "find",
    "free_bytes",
    "import_huggingface",
    "load",
    "load_checkpoint",
    "load_masks",
    "load_tokenizer",
    "model_card",
    "restore_orbax",
    "save",
    "save_masks",
    "save_orbax",
    "target_dtype",
]
