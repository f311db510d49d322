"""A tokenizer that can be followed by eye, and the message of a refusal."""

import pytest

from jprune.core import InputError


class Letters:
    """One token per character: a = 10, b = 11, ...; a line end is 3."""

    bos_token_id = 1

    def __init__(self):
        self.texts = []

    def encode(self, text, add_special_tokens=True):
        assert add_special_tokens is False
        self.texts.append(text)
        return [3 if c == "\n" else ord(c) - ord("a") + 10 for c in text]


def message_of(function, *args, **kwargs) -> str:
    with pytest.raises(InputError) as caught:
        function(*args, **kwargs)
    return str(caught.value)
