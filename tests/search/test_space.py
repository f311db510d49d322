"""Spaces: every candidate has exactly so many units gone, whatever is suggested."""

import jax
import numpy as np
import pytest

from jprune.core.errors import InputError
from jprune.llama import abstract
from jprune.scores import Unit
from jprune.search import Candidate, DropSpace, Mix, StitchSpace
from jprune.search.offspring import offspring
from jprune.search.parameters import encode, suggest
from jprune.transforms import drop_sublayers
from tests.search.landscapes import drop_space, stitch_space
from tests.tiny import CONFIG

SUBLAYERS = tuple(Unit(layer, part) for layer in range(1, 5) for part in ("attention", "mlp"))
SPACES = {
    "blocks": drop_space(3),
    "sublayers": DropSpace(6, SUBLAYERS, 5),
    "all but one": drop_space(11),
    "stitch": stitch_space(),
    "stitch protected": StitchSpace(7, 3, ("a", "b", "c"), (0, 6)),
    "merge only": StitchSpace(4, 0, ("a", "b")),
}


class Suggestions:
    """Parameters as an Optuna trial would suggest them, drawn or given."""

    def __init__(self, rng=None, values=None):
        self.rng, self.values, self.asked = rng, values, {}

    def suggest_float(self, name, low, high, step=None):
        value = self.values[name] if self.values else self.rng.uniform(low, high)
        self.asked[name] = value
        return round(value / step) * step if step else value

    def suggest_categorical(self, name, choices):
        value = self.values[name] if self.values else choices[self.rng.integers(len(choices))]
        self.asked[name] = value
        return value


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("name", SPACES)
def test_any_suggestion_is_a_candidate(name, conditional):
    space, rng = SPACES[name], np.random.default_rng(1)
    found = set()
    for _ in range(60):
        candidate = suggest(space, Suggestions(rng), conditional)
        assert len(candidate.removed) == space.remove
        assert {*candidate.removed} <= {*space.units}
        space.check(candidate)
        found.add(candidate)
    assert len(found) > 5


@pytest.mark.parametrize("name", SPACES)
def test_random_candidates_and_their_offspring_are_candidates(name):
    space, rng = SPACES[name], np.random.default_rng(2)
    for _ in range(60):
        candidate = space.random(rng)
        space.check(candidate)
        child = offspring(space, candidate, rng)
        space.check(child)


def test_offspring_are_near():
    space, rng = drop_space(5), np.random.default_rng(3)
    parent = space.random(rng)
    swaps = [len({*parent.removed} - {*offspring(space, parent, rng).removed}) for _ in range(200)]
    assert max(swaps) == 3
    assert swaps.count(1) > swaps.count(2) > swaps.count(3) > 0


def test_random_candidates_are_drawn_evenly():
    space, rng = drop_space(3), np.random.default_rng(4)
    counts = np.zeros(12)
    for _ in range(2000):
        for unit in space.random(rng).removed:
            counts[unit.layer] += 1
    np.testing.assert_allclose(counts / 2000, 3 / 12, atol=0.04)
    stitch, mixes = stitch_space(), []
    for _ in range(500):
        mixes += stitch.random(rng).mixes
    assert {mix.variants for mix in mixes} == {(0,), (1,), (0, 1)}
    assert len(mixes) / (500 * 4) == pytest.approx(3 / 4, abs=0.05)


@pytest.mark.parametrize("conditional", [True, False])
@pytest.mark.parametrize("name", SPACES)
def test_encoded_candidates_are_suggested_again(name, conditional):
    space, rng = SPACES[name], np.random.default_rng(5)
    for _ in range(30):
        candidate = space.random(rng)
        again = suggest(space, Suggestions(values=encode(space, candidate)), conditional)
        assert again == candidate


def test_the_lowest_priorities_go():
    space = DropSpace(5, (Unit(1, "block"), Unit(2, "block"), Unit(4, "block")), 2)
    values = {"priority of block 1": 0.7, "priority of block 2": 0.1, "priority of block 4": 0.3}
    assert suggest(space, Suggestions(values=values)).removed == (
        Unit(2, "block"),
        Unit(4, "block"),
    )


def test_parameters_that_depend_on_others_are_asked_where_they_count():
    space = stitch_space(2)
    candidate = Candidate((Unit(0, "block"), Unit(5, "block")), (Mix(1, (0, 1), 0.3), Mix(2, (1,))))
    asked = Suggestions(values=encode(space, candidate))
    suggest(space, asked)
    names = {name for name in asked.asked if not name.startswith("priority")}
    expected = {f"variants of layer {layer}" for layer in (1, 2, 3, 4)} | {"factor of layer 1"}
    assert names == expected
    everything = Suggestions(values=encode(space, candidate))
    suggest(space, everything, conditional=False)
    assert len(everything.asked) == 6 + 6 + 6


def test_the_units_of_a_model():
    llama = abstract(CONFIG, 4)
    space = DropSpace.of(llama, 2, "sublayer", protect="0,-1")
    assert space.units == tuple(Unit(x, part) for x in (1, 2) for part in ("attention", "mlp"))
    less = jax.eval_shape(drop_sublayers(mlp=[2]), llama)
    assert Unit(2, "mlp") not in DropSpace.of(less, 2, "sublayer").units
    assert [unit.layer for unit in DropSpace.of(llama, 1).units] == [0, 1, 2, 3]


def test_subsets_begin_with_the_base():
    assert SPACES["stitch protected"].subsets == (
        *((), (0,), (1,), (2,)),
        *((0, 1), (0, 2), (1, 2), (0, 1, 2)),
    )
    assert drop_space().subsets == ((),)


def test_spaces_tell_each_other_apart():
    spaces = [*SPACES.values(), StitchSpace(7, 3, ("a", "b", "c")), StitchSpace(7, 3, ("a", "b"))]
    texts = {str(space.to_json()) for space in spaces}
    assert len(texts) == len(spaces)


BLOCKS = tuple(Unit(layer, "block") for layer in range(4))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DropSpace(4, BLOCKS, 0), "removes 1 unit or more, not 0"),
        (lambda: DropSpace(4, BLOCKS[:2], 3), "cannot remove 3 units: only 2 may go"),
        (lambda: DropSpace(4, BLOCKS, 4), "removing all 4 units leaves no model"),
        (
            lambda: DropSpace(4, (Unit(4, "block"),), 1),
            "no block 4: the model has 4 layers, 0 to 3",
        ),
        (lambda: DropSpace(4, (Unit(1, "mlp"), Unit(1, "mlp")), 1), "named twice"),
        (
            lambda: DropSpace(4, (Unit(1, "mlp"), Unit(1, "block")), 1),
            "a search removes block 1 or mlp 1, not both",
        ),
        (lambda: StitchSpace(4, 1, ()), "at least one variant; to remove layers of one model"),
        (lambda: StitchSpace(4, 1, ("a", "a")), "variants a, a name one twice"),
        (lambda: StitchSpace(4, 1, tuple("abcdefghi")), "9 variants have 512 subsets"),
        (lambda: StitchSpace(4, -1, ("a",)), "removes 0 layers or more, not -1"),
        (lambda: StitchSpace(4, 4, ("a",)), "removing 4 of 4 layers leaves no model"),
        (lambda: StitchSpace(4, 3, ("a",), (0, 1)), "cannot remove 3 layers: only 2 may go"),
        (lambda: StitchSpace(4, 1, ("a",), (7,)), "layer 7 is outside this model"),
        (lambda: drop_space().check(Candidate((Unit(1, "mlp"),))), "mlp 1 is not among the units"),
        (
            lambda: drop_space().check(Candidate((Unit(1, "block"),))),
            "removes 1 units; all of this",
        ),
        (lambda: stitch_space(0).check(Candidate((), (Mix(1, (2,)),))), "variant 2; this search"),
        (lambda: stitch_space(0).check(Candidate((), (Mix(6, (1,)),))), "layer 6, which is not"),
        (
            lambda: StitchSpace(4, 0, ("a",)).check(Candidate((Unit(1, "block"),))),
            "removes 1 units; all of this search remove 0",
        ),
    ],
)
def test_errors(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_all_attention_may_go():
    assert DropSpace(3, tuple(Unit(layer, "attention") for layer in range(3)), 3).remove == 3
