"""Warm starts: what people would try by hand."""

import pytest

from jprune.core.errors import InputError
from jprune.scores import Scores, Unit
from jprune.search import DropSpace, Mix, StitchSpace, warm_starts
from tests.search.landscapes import COSTS, best_removal, drop_space, layers


def test_removals_of_one_model():
    found = [sorted(layers(candidate)) for candidate in warm_starts(drop_space(3), COSTS.tolist())]
    assert found == [
        sorted(best_removal(3)),
        [7, 9, 11],  # every other one
        [9, 10, 11],
        [6, 7, 8],
        [3, 4, 5],
        [0, 1, 2],
    ]
    assert len(warm_starts(drop_space(3), windows=100)) == 1 + 10
    assert len(warm_starts(drop_space(3), windows=0)) == 1


def test_every_other_one_wraps_around():
    space = DropSpace(5, tuple(Unit(layer, "block") for layer in range(5)), 4)
    assert sorted(layers(warm_starts(space, windows=0)[0])) == [0, 2, 3, 4]


def test_windows_are_contiguous():
    space = StitchSpace(8, 2, ("a",), protected=(3,))
    windows = {
        tuple(sorted(layers(candidate)))
        for candidate in warm_starts(space, windows=100)
        if not candidate.mixes
    }
    assert windows == {(0, 1), (1, 2), (4, 5), (5, 6), (6, 7)} | {(5, 7)}


def test_each_removal_with_each_variant_and_with_all():
    space = StitchSpace(4, 2, ("a", "b", "c", "d"))
    found = warm_starts(space, windows=1)
    assert len(found) == 2 * (1 + 4 + 1)
    for candidate in found:
        space.check(candidate)
    alternating = found[:6]
    assert {tuple(sorted(layers(candidate))) for candidate in alternating} == {(1, 3)}
    assert [candidate.mixes for candidate in alternating] == [
        (),
        *((Mix(0, (v,)), Mix(2, (v,))) for v in range(4)),
        (Mix(0, (0, 1, 2, 3), 0.25), Mix(2, (0, 1, 2, 3), 0.25)),
    ]
    one = warm_starts(StitchSpace(4, 2, ("a",)), windows=0)
    assert [len(candidate.mixes) for candidate in one] == [0, 2]
    merged = warm_starts(StitchSpace(4, 0, ("a", "b")))
    assert [len(candidate.mixes) for candidate in merged] == [0, 4, 4, 4]


def test_variants_with_scores_of_their_own():
    space = StitchSpace(4, 1, ("a", "b"))
    scores = [[3.0, 1.0, 2.0, 4.0], [4.0, 3.0, 2.0, 1.0], [1.0, 2.0, 3.0, 4.0]]
    found = warm_starts(space, scores[0], variant_scores=scores[1:])
    first = [(layers(one), {mix.variants for mix in one.mixes}) for one in found[:4]]
    assert first == [({3}, {(0,)}), ({0}, {(1,)}), ({1}, set()), ({1}, {(0,)})]
    assert len(found) == len(set(found)) == len(warm_starts(space, scores[0]))
    # The mean, half and the whole of the sum of what both add, without the unit of lowest score.
    both = [one.mixes[0].factor for one in found if one.mixes and one.mixes[0].variants == (0, 1)]
    assert both[0] == 0.5 and both[-1] == 1.0
    assert layers(found[-1]) == {1} and {mix.factor for mix in found[-1].mixes} == {1.0}


def test_scores_by_unit():
    units = tuple(Unit(layer, part) for layer in range(3) for part in ("attention", "mlp"))
    values = (None, 0.1, 0.5, 0.05, 0.5, 0.3)
    scores = Scores("perplexity", "sublayer", units, values, (3, 1, 5, 2, 4))
    space = DropSpace(3, (*units[:3], units[4]), 3)
    # The MLPs of layers 1 and 2 are out of reach; of equal scores the earlier unit goes.
    assert warm_starts(space, scores)[0].removed == (units[1], units[2], units[4])
    all_gone = DropSpace(3, units[:3], 3)
    assert warm_starts(all_gone, scores)[0].removed == units[:3]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([1.0, 2.0], "2 scores for 12 units; give one for each unit"),
        (
            Scores("taylor", "mlp", (Unit(0, "mlp"),), (1.0,), (0,)),
            "no score of block 0: these scores are of granularity mlp",
        ),
    ],
)
def test_errors(scores, message):
    with pytest.raises(InputError, match=message):
        warm_starts(drop_space(3), scores)
