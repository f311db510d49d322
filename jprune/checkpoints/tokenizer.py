"""Tokenizers of checkpoint folders, loaded when first used."""

import dataclasses
import functools
import json
from collections.abc import Iterable, Sequence
from typing import Any, SupportsIndex

from etils import epath

from jprune.core.errors import InputError
from jprune.core.files import PathLike, as_path, read_json, write_bytes
from jprune.core.remote import local_files, local_output

# What goes with the weights from folder to folder: tokenizer, chat template, generation defaults
# and the terms of use.
COMPANIONS = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "additional_chat_templates/*",
    "generation_config.json",
    "LICENSE*",
    "NOTICE*",
    "USE_POLICY*",
)
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")

# Classes for which transformers uses tokenizer.json as it is. The others rebuild parts of it, so
# that only transformers itself gives the same ids.
_PLAIN_CLASSES = (None, "PreTrainedTokenizerFast", "TokenizersBackend")


@dataclasses.dataclass(frozen=True)
class Tokenizer:
    """The tokenizer of a folder; nothing is read before the first use.

    It gives the ids that transformers gives, and goes through the much lighter `tokenizers`
    library where that is certain to be so.

    Attributes:
      folder: where its files are.
    """

    folder: epath.Path

    def encode(self, text: str, add_special_tokens: bool = False) -> list[int]:
        """The ids of a text."""
        if self._plain is None or (add_special_tokens and not self._has_specials):
            return self.hf.encode(text, add_special_tokens=add_special_tokens)
        return self._plain.encode(text, add_special_tokens=add_special_tokens).ids

    def encode_batch(
        self, texts: Sequence[str], add_special_tokens: bool = False
    ) -> list[list[int]]:
        """The ids of each of several texts."""
        if not texts:
            return []
        if self._plain is None or (add_special_tokens and not self._has_specials):
            return self.hf(list(texts), add_special_tokens=add_special_tokens)["input_ids"]
        encoded = self._plain.encode_batch(list(texts), add_special_tokens=add_special_tokens)
        return [one.ids for one in encoded]

    def decode(self, ids: Iterable[SupportsIndex], skip_special_tokens: bool = True) -> str:
        """The text of ids."""
        ids = [int(i) for i in ids]
        if self._plain is None:
            return self.hf.decode(ids, skip_special_tokens=skip_special_tokens)
        return self._plain.decode(ids, skip_special_tokens=skip_special_tokens)

    @functools.cached_property
    def bos_token_id(self) -> int | None:
        """The id that starts a text, or None."""
        return self._special_id("bos_token")

    @functools.cached_property
    def eos_token_id(self) -> int | None:
        """The id that ends a text, or None."""
        return self._special_id("eos_token")

    @functools.cached_property
    def vocab_size(self) -> int:
        """How many tokens there are, added ones included."""
        return len(self.hf) if self._plain is None else self._plain.get_vocab_size()

    @property
    def files(self) -> list[epath.Path]:
        """The files to copy beside a model that is made from this one."""
        found = [file for pattern in COMPANIONS for file in self.folder.glob(pattern)]
        return sorted(file for file in found if file.is_file())

    @functools.cached_property
    def hf(self) -> Any:
        """The tokenizer as an object of transformers."""
        from transformers import AutoTokenizer

        try:
            with local_files(self.folder, self.files) as folder:
                return AutoTokenizer.from_pretrained(folder)
        except InputError:
            raise
        except Exception as error:
            reason = str(error).strip().split("\n")[0]
            raise InputError(f"cannot load the tokenizer in {self.folder}: {reason}") from error

    @functools.cached_property
    def _settings(self) -> dict[str, Any]:
        """tokenizer_config.json over special_tokens_map.json."""
        merged: dict[str, Any] = {}
        for name in ("special_tokens_map.json", "tokenizer_config.json"):
            if (self.folder / name).exists():
                values = read_json(self.folder / name)
                if not isinstance(values, dict):
                    raise InputError(f"{self.folder / name} is not a JSON object")
                merged |= values
        return merged

    @functools.cached_property
    def _plain(self) -> Any:
        """The backend of tokenizer.json, or None if transformers would change it."""
        file, settings = self.folder / "tokenizer.json", self._settings
        if not file.exists() or settings.get("tokenizer_class") not in _PLAIN_CLASSES:
            return None
        import tokenizers

        try:
            text = file.read_bytes().decode()
            known = {token["content"] for token in json.loads(text).get("added_tokens", ())}
            backend = tokenizers.Tokenizer.from_str(text)
        except Exception as error:  # the library raises plain Exception
            reason = str(error).strip().split("\n")[0]
            raise InputError(f"{file} is not a valid tokenizer: {reason}") from None
        if settings.get("split_special_tokens") or not _named_tokens(settings) <= known:
            return None
        backend.no_truncation()
        backend.no_padding()
        return backend

    @functools.cached_property
    def _has_specials(self) -> bool:
        """Whether tokenizer.json adds the special tokens that transformers adds to a text.

        It adds those that the settings ask for, in place of those of the file, where they do.
        """
        if not {"add_bos_token", "add_eos_token"} & self._settings.keys():
            return True
        text, ids = (self._plain.encode("a", add_special_tokens=add).ids for add in (False, True))
        bos = [self.bos_token_id] if self._settings.get("add_bos_token") else []
        eos = [self.eos_token_id] if self._settings.get("add_eos_token") else []
        return ids == [i for i in (*bos, *text, *eos) if i is not None]

    def _special_id(self, key: str) -> int | None:
        if self._plain is None:
            return getattr(self.hf, f"{key}_id")
        token = _content(self._settings.get(key))
        return None if token is None else self._plain.token_to_id(token)


def load_tokenizer(folder: PathLike) -> Tokenizer | None:
    """A handle on the tokenizer in `folder`, or None if there is none."""
    folder = as_path(folder)
    has_vocabulary = any((folder / name).exists() for name in _VOCABULARIES)
    return Tokenizer(folder) if has_vocabulary else None


def write_companions(tokenizer: Any, folder: PathLike) -> None:
    """Puts a tokenizer's files into `folder`.

    Args:
      tokenizer: a `Tokenizer`, copied with all its `files`; a tokenizer of transformers; or None.
      folder: an existing folder.
    """
    folder = as_path(folder)
    if isinstance(tokenizer, Tokenizer):
        for file in tokenizer.files:
            write_bytes(folder / file.relative_to(tokenizer.folder), file.read_bytes())
    elif tokenizer is not None:
        with local_output(folder) as local:
            tokenizer.save_pretrained(local)


def _named_tokens(settings: dict[str, Any]) -> set[str]:
    """Tokens that the settings name and transformers would add to the vocabulary."""
    values = [value for key, value in settings.items() if key.endswith("_token")]
    values += (settings.get("added_tokens_decoder") or {}).values()
    for key in ("additional_special_tokens", "extra_special_tokens"):
        extra = settings.get(key) or ()
        values += extra.values() if isinstance(extra, dict) else extra
    contents = {_content(value) for value in values}
    return {content for content in contents if content is not None}


def _content(token: Any) -> str | None:
    """The text of a special token, which JSON files give as a string or an object."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None
