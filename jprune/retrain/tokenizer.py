"""A byte-level BPE tokenizer of one's own, in the form that transformers loads."""

import json
from collections.abc import Iterable

from jprune.core.errors import InputError
from jprune.core.files import PathLike, as_path, write_text

SPECIAL_TOKENS = ("<unk>", "<s>", "</s>")
UNK_ID, BOS_ID, EOS_ID = range(3)
SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)


def train_tokenizer(documents: Iterable[str], vocab_size: int):
    """A `tokenizers.Tokenizer` fitted to `documents`; encoding puts <s> first.

    Every byte has a token, so any text can be encoded and decodes to itself.

    Reference: Sennrich et al., subword units (arXiv 1508.07909); Radford et al., GPT-2 (2019),
    section 2.2, for the byte-level form.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    if vocab_size < SMALLEST_VOCABULARY:
        raise InputError(f"a byte-level vocabulary has at least {SMALLEST_VOCABULARY} tokens")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(documents, trainer)
    bos = SPECIAL_TOKENS[BOS_ID]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, BOS_ID)]
    )
    return tokenizer


def save_tokenizer(folder: PathLike, tokenizer, max_length: int) -> None:
    """Writes tokenizer.json and tokenizer_config.json into `folder`.

    Args:
      folder: where to; made if absent.
      tokenizer: from `train_tokenizer`.
      max_length: the context of the model it serves, in tokens.
    """
    folder = as_path(folder)
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": SPECIAL_TOKENS[UNK_ID],
        "bos_token": SPECIAL_TOKENS[BOS_ID],
        "eos_token": SPECIAL_TOKENS[EOS_ID],
        "add_bos_token": True,
        "clean_up_tokenization_spaces": False,
        "model_max_length": max_length,
    }
    write_text(folder / "tokenizer.json", tokenizer.to_str())
    write_text(folder / "tokenizer_config.json", json.dumps(settings, indent=2) + "\n")
