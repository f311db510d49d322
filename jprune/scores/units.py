"""The units that depth pruning removes: whole blocks, or single attention and MLP sublayers."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from jprune.core.errors import InputError, unknown
from jprune.llama.model import Llama, Run

PARTS = {
    "block": ("block",),
    "attention": ("attention",),
    "mlp": ("mlp",),
    "sublayer": ("attention", "mlp"),
}
GRANULARITIES = tuple(PARTS)
# Which of a layer's two sublayers, attention and MLP, a part has.
SUBLAYERS = {"block": (0, 1), "attention": (0,), "mlp": (1,)}


class Unit(NamedTuple):
    """Something that can be removed: a part ('block', 'attention' or 'mlp') of a layer."""

    layer: int
    part: str

    def __str__(self) -> str:
        return f"{self.part} {self.layer}"

    def to_json(self) -> dict:
        """The unit as reports and score files write it."""
        return {"layer": self.layer, "part": self.part}


def units(llama: Llama, granularity: str = "block") -> tuple[Unit, ...]:
    """Every unit of `llama` at a granularity, layer by layer, attention before MLP.

    Units that the model no longer has are listed too, so that positions stay regular; scores are
    undefined there.

    Raises:
      InputError: an unknown granularity.
    """
    if granularity not in PARTS:
        raise unknown("granularity", granularity, GRANULARITIES)
    return tuple(
        Unit(layer, part) for layer in range(llama.num_layers) for part in PARTS[granularity]
    )


def present(llama: Llama) -> list[tuple[bool, bool]]:
    """Per layer, whether its attention and its MLP are there."""
    there = []
    for part in llama.blocks:
        block, count = (part.block, len(part)) if isinstance(part, Run) else (part, 1)
        there += [(block.attn is not None, block.mlp is not None)] * count
    return there


def is_present(unit: Unit, there: Sequence[tuple[bool, bool]]) -> bool:
    """Whether a model with sublayers `there` (see `present`) has anything of `unit` to remove."""
    return any(there[unit.layer][column] for column in SUBLAYERS[unit.part])


def parse_layers(text: str | int | Iterable[int] | None, num_layers: int) -> tuple[int, ...]:
    """Layer indices of a text such as '0-3,-2,-1' in a model of `num_layers`, sorted.

    A negative number counts from the end; a range a-b includes both ends.

    Raises:
      InputError: something that is no index or range, or a layer that does not exist.
    """
    if text is None:
        return ()
    items = text.split(",") if isinstance(text, str) else [text] if isinstance(text, int) else text
    layers: set[int] = set()
    for item in items:
        word = str(item).strip()
        if not word:
            continue
        try:
            first, last = _range(word)
        except ValueError:
            raise InputError(
                f"cannot read {word!r} as layers; write indices and ranges like '0-3,-2,-1'"
            ) from None
        ends = [index + num_layers if index < 0 else index for index in (first, last)]
        if not all(0 <= index < num_layers for index in ends):
            raise InputError(
                f"layer {word} is outside this model, whose {num_layers} layers are "
                f"0 to {num_layers - 1} (or -{num_layers} to -1)"
            )
        if ends[0] > ends[1]:
            raise InputError(f"the range of layers {word!r} runs backwards")
        layers.update(range(ends[0], ends[1] + 1))
    return tuple(sorted(layers))


def _range(word: str) -> tuple[int, int]:
    # The dash of a range is one that follows a digit: "-3--1" is from -3 to -1.
    dash = word.find("-", 1)
    if dash < 0:
        return int(word), int(word)
    return int(word[:dash]), int(word[dash + 1 :])
