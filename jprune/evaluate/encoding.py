"""Texts and their continuations as token ids, as lm-evaluation-harness makes them."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from jprune.core.errors import InputError


@dataclasses.dataclass(frozen=True)
class Request:
    """What a log-likelihood is asked of: log p(continuation | context), summed over its tokens.

    Attributes:
      context: token ids, at least one.
      continuation: token ids.
    """

    context: tuple[int, ...]
    continuation: tuple[int, ...]


class TextEncoder:
    """A tokenizer as lm-evaluation-harness uses it for causal models of Hugging Face.

    A text gets the special tokens that the tokenizer adds by itself, unless it begins with BOS
    already.
    """

    def __init__(
        self, tokenizer: Any, *, add_bos: bool | None = None, prefix_id: int | None = None
    ):
        """Wraps a tokenizer.

        Args:
          tokenizer: of a checkpoint, or of transformers.
          add_bos: whether texts get special tokens; by default as the tokenizer does.
          prefix_id: the token that stands for an empty context; by default BOS, else EOS.

        Raises:
          InputError: no tokenizer, or one without BOS and EOS.
        """
        if tokenizer is None:
            raise InputError(
                "the model has no tokenizer, so texts cannot be read; add tokenizer.json to its "
                "folder"
            )
        if prefix_id is None:
            prefix_id = tokenizer.bos_token_id
        if prefix_id is None:
            prefix_id = tokenizer.eos_token_id
        if prefix_id is None:
            raise InputError(
                "the tokenizer has neither BOS nor EOS, one of which stands before a text without "
                "context; name one in its tokenizer_config.json"
            )
        self._tokenizer = tokenizer
        self._specials = True if add_bos is None else add_bos
        self.prefix_id = int(prefix_id)
        self._prefix_text = tokenizer.decode([self.prefix_id], skip_special_tokens=False)

    def encode(self, texts: Sequence[str], specials: bool | None = None) -> list[list[int]]:
        """The ids of each text.

        Args:
          texts: any texts.
          specials: whether to add special tokens; by default as the class says.
        """
        with_specials = [
            (self._specials and not text.startswith(self._prefix_text))
            if specials is None
            else specials
            for text in texts
        ]
        found: dict[int, list[int]] = {}
        for add in (False, True):
            chosen = [i for i, one in enumerate(with_specials) if one == add]
            found |= zip(chosen, self._encode([texts[i] for i in chosen], add), strict=True)
        return [found[i] for i in range(len(texts))]

    def _encode(self, texts: list[str], specials: bool) -> list[list[int]]:
        batch = getattr(self._tokenizer, "encode_batch", None)
        if batch is not None:
            return batch(texts, add_special_tokens=specials)
        return [list(self._tokenizer.encode(t, add_special_tokens=specials)) for t in texts]

    def pairs(self, pairs: Sequence[tuple[str, str]]) -> list[Request]:
        """The request of each pair of context and continuation.

        Spaces at the end of a context go to its continuation. Both together are encoded, and what
        comes after as many tokens as the context has by itself is the continuation. After an empty
        context it is encoded alone, behind `prefix_id`.
        """
        moved = [_moved(context, continuation) for context, continuation in pairs]
        contexts = list(dict.fromkeys(context for context, _ in moved))
        ids = dict(zip(contexts, self.encode(contexts), strict=True))
        empty = [continuation for context, continuation in pairs if not context]
        alone = dict(zip(empty, self.encode(empty, specials=False), strict=True))
        whole = self.encode([context + continuation for context, continuation in moved])
        found = []
        for (original, continuation), (context, _), both in zip(pairs, moved, whole, strict=True):
            if not original:
                found.append(self._without_context(alone[continuation]))
                continue
            before = ids[context] or [self.prefix_id]
            found.append(Request(tuple(before), tuple(both[len(ids[context]) :])))
        return found

    def _without_context(self, ids: list[int]) -> Request:
        if ids[:1] == [self.prefix_id]:  # it stands there already, and is not asked for
            return Request(tuple(ids[:1]), tuple(ids[1:]))
        return Request((self.prefix_id,), tuple(ids))


def _moved(context: str, continuation: str) -> tuple[str, str]:
    bare = context.rstrip()
    return bare, context[len(bare) :] + continuation
