"""Units and the texts that name layers."""

import pytest

from jprune.core.errors import InputError
from jprune.scores import Unit, parse_layers, present, units
from tests.tiny import tiny


def test_units_of_each_granularity():
    llama = tiny(2)
    assert units(llama) == ((0, "block"), (1, "block"))
    assert units(llama, "mlp") == ((0, "mlp"), (1, "mlp"))
    assert units(llama, "sublayer") == (
        Unit(0, "attention"),
        Unit(0, "mlp"),
        Unit(1, "attention"),
        Unit(1, "mlp"),
    )
    with pytest.raises(InputError, match="unknown granularity 'blok'; did you mean 'block'"):
        units(llama, "blok")


def test_present_knows_what_was_removed():
    llama = tiny(2)
    bare = llama.blocks[1].replace(attn=None, attn_norm=None)
    assert present(llama.replace(blocks=(llama.blocks[0], bare))) == [(True, True), (False, True)]


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("0-3,-2,-1", (0, 1, 2, 3, 8, 9)),
        ("", ()),
        (None, ()),
        ("-3--1", (7, 8, 9)),
        (" 4 , 2", (2, 4)),
        ("5,5,4-6", (4, 5, 6)),
        (7, (7,)),
        ([3, -1], (3, 9)),
        ("6--2", (6, 7, 8)),
    ],
)
def test_layers_of_a_text(text, layers):
    assert parse_layers(text, 10) == layers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10", "layer 10 is outside this model, whose 10 layers are 0 to 9"),
        ("-11", "layer -11 is outside"),
        ("a-b", "cannot read 'a-b' as layers"),
        ("3-1", "'3-1' runs backwards"),
        ("1.5", "cannot read '1.5'"),
    ],
)
def test_wrong_layers(text, message):
    with pytest.raises(InputError, match=message):
        parse_layers(text, 10)
