"""A tokenizer of words that can be followed by eye."""

import re


class Words:
    """A word with the space before it is one token; so is a single space that no word follows.

    Ids count up from 10 in the order in which tokens are met; BOS is 1, EOS 2, and "?" unknown, 0.
    """

    bos_token_id, eos_token_id = 1, 2

    def __init__(self, **changes):
        self.ids: dict[str, int] = {"<s>": 1, "?": 0}
        vars(self).update(changes)

    def encode(self, text, add_special_tokens=True):
        pieces = re.findall(r"<s>| ?[\w.:,]+|\s|\?", text)
        ids = [self.ids.setdefault(piece, len(self.ids) + 8) for piece in pieces]
        return [1] * (add_special_tokens and self.bos_token_id is not None) + ids

    def decode(self, ids, skip_special_tokens=True):
        names = {number: piece for piece, number in self.ids.items()} | {2: "</s>"}
        return "".join(names[i] for i in ids if not (skip_special_tokens and i in (1, 2)))
