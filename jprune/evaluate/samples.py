"""Text that a model writes."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

from jprune.core.errors import InputError
from jprune.data.windows import Tokenizer
from jprune.llama import DecodeLayout, Llama, Sampling, generate
from jprune.llama.config import LlamaConfig


@runtime_checkable
class TextTokenizer(Tokenizer, Protocol):
    """What of a tokenizer is needed to read prompts and to write."""

    @property
    def eos_token_id(self) -> int | None:
        """The id of the token that ends a text, if there is one."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids."""
        ...


@dataclasses.dataclass(frozen=True)
class Sample:
    """What a model wrote.

    Attributes:
      prompt: what it was given.
      text: what follows.
      prompt_tokens: how many tokens the prompt is, BOS included.
      new_tokens: how many followed, the one that ended the text included.
      ended: whether the model ended it, rather than the number of tokens.
    """

    prompt: str
    text: str
    prompt_tokens: int
    new_tokens: int
    ended: bool

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return dataclasses.asdict(self)


def generate_texts(
    llama: Llama | DecodeLayout,
    tokenizer: TextTokenizer | None,
    prompts: Sequence[str],
    max_new_tokens: int,
    *,
    sampling: Sampling = Sampling(),  # noqa: B008  (frozen)
    stop_at_eos: bool = True,
    seed: int = 0,
    batch_size: int = 64,
) -> list[Sample]:
    """What a model writes after each prompt; see `jprune.llama.generate`.

    A prompt begins with BOS where the model reads it, so that an empty one is a text of the
    model's own.

    Raises:
      InputError: no tokenizer; see `jprune.llama.generate`.
    """
    if tokenizer is None:
        raise InputError(
            "the model has no tokenizer, so prompts cannot be read; add tokenizer.json to its "
            "folder, or use jprune.generate with token ids"
        )
    config = (llama.ends if isinstance(llama, DecodeLayout) else llama).config
    ids = [prompt_ids(tokenizer, prompt, config) for prompt in prompts]
    ends = {*_several(tokenizer.eos_token_id), *_several(config.eos_token_id)}
    stop = tuple(sorted(ends)) if stop_at_eos else ()
    found = generate(
        *(llama, ids, max_new_tokens),
        sampling=sampling,
        stop=stop,
        seed=seed,
        batch_size=batch_size,
    )
    return [
        Sample(prompt, tokenizer.decode(new), len(given), len(new), new[-1] in stop)
        for prompt, given, new in zip(prompts, ids, found, strict=True)
    ]


def prompt_ids(tokenizer: Tokenizer, prompt: str, config: LlamaConfig) -> list[int]:
    """The ids of a prompt, BOS before it where the model's texts begin with it.

    Raises:
      InputError: an empty prompt of a model without BOS.
    """
    bos = tokenizer.bos_token_id if config.bos != "none" else None
    ids = [*([] if bos is None else [bos]), *tokenizer.encode(prompt)]
    if not ids:
        raise InputError("an empty prompt needs a model that begins texts with BOS; give some text")
    return ids


def _several(ids: int | tuple[int, ...] | None) -> tuple[int, ...]:
    return () if ids is None else (ids,) if isinstance(ids, int) else tuple(ids)
