"""What candidates have in common runs once, in as much memory as there is for it."""

import jax
import numpy as np
import pytest

from jprune.core import mesh as meshes
from jprune.evaluate import StitchedModels, prefixes
from jprune.transforms import StitchPlan
from tests.tiny import finetunes, tiny, windows

BASE = tiny(5)
VARIANTS = finetunes(BASE, "math", "code", "chat")
IDS = windows(7, 12)
# Of the residual streams of IDS after a layer.
STREAM_BYTES = 7 * 12 * 32 * 4


def rows(*layers):
    return StitchPlan.from_json([{"layer": layer} for layer in layers])


def test_layers_before_a_difference_do_not_run_again(blocks_run):
    models, fresh = StitchedModels(BASE, VARIANTS), StitchedModels(BASE, VARIANTS, memory=0)
    first = [{"layer": 0, "factor": 0.3}, {"layer": 1}]
    mixed = {"layer": 4, "variants": [0, 1], "factor": 0.5}
    other_ends = {"layers": [{"layer": 0}], "ends": {"variants": [0]}}
    for plan, expected in (
        (rows(0, 1, 2, 3), 4),
        (rows(0, 1, 3, 4), 2),
        (rows(0, 1, 2), 0),
        (rows(0, 1, 2, 3), 0),
        (rows(1, 2, 3), 3),
        (StitchPlan.from_json([*first, mixed]), 1),  # a factor without variants does not matter
        (StitchPlan.from_json([*first, mixed | {"factor": 0.4}, {"layer": 2}]), 2),
        (StitchPlan.from_json(other_ends), 1),  # other embeddings
    ):
        blocks_run.clear()
        found = models.nll(plan, IDS)
        assert len(blocks_run) == expected, plan
        np.testing.assert_array_equal(found, fresh.nll(plan, IDS))
    # Of other windows, or other batches of them, nothing is known.
    for ids, size, expected in ((IDS[::-1], None, 4), (IDS, 4, 2 * 4), (IDS.copy(), None, 0)):
        blocks_run.clear()
        found = models.nll(rows(0, 1, 2, 3), ids, batch_size=size)
        assert len(blocks_run) == expected
        np.testing.assert_array_equal(found, fresh.nll(rows(0, 1, 2, 3), ids, batch_size=size))
    models.forget()
    blocks_run.clear()
    models.nll(rows(0, 1, 2, 3), IDS)
    assert len(blocks_run) == 4


def test_the_least_recently_used_goes_first(blocks_run, monkeypatch):
    monkeypatch.setattr(prefixes, "CANDIDATES", 1)  # streams after every layer
    models = StitchedModels(BASE, memory=5 * STREAM_BYTES)

    def run(*layers):
        blocks_run.clear()
        models.nll(rows(*layers), IDS)
        return len(blocks_run)

    assert run(0, 1, 2) == 3
    assert run(3, 4) == 2
    assert run(0, 1, 2) == 0  # used again: that of (3, 4) is now the oldest
    assert (
        run(
            1,
        )
        == 1
    )
    assert run(0, 1, 2) == 0
    assert (
        run(
            3,
        )
        == 0
        and run(3, 4) == 1
    )
    assert models._prefixes._bytes == 5 * STREAM_BYTES


def test_little_memory_is_spread_over_the_layers(blocks_run):
    # Four candidates of four layers with two streams each.
    models = StitchedModels(BASE, memory=8 * STREAM_BYTES)
    models.nll(rows(0, 1, 2, 3), IDS)
    for layers, expected in (((0, 1, 2, 4), 2), ((0, 1, 3, 4), 2), ((0, 2, 3, 4), 4)):
        blocks_run.clear()
        models.nll(rows(*layers), IDS)
        assert len(blocks_run) == expected
    too_small = StitchedModels(BASE, memory=STREAM_BYTES - 1)
    for _ in range(2):
        blocks_run.clear()
        too_small.nll(rows(0, 1), IDS)
        assert len(blocks_run) == 2


@pytest.mark.parametrize(("free", "expected"), [([10**6, 4 * 10**5], 2 * 10**5), ([None], 2**30)])
def test_the_default_is_a_share_of_what_is_free(monkeypatch, free, expected):
    sizes = dict(zip(jax.devices(), free, strict=False))
    monkeypatch.setattr(prefixes, "free_bytes", sizes.get)
    if len(free) == 1:
        assert StitchedModels(BASE)._prefixes.limit == expected
        return
    with meshes.use_mesh(meshes.parse_mesh("data:2", jax.devices()[:2])):
        assert prefixes.default_limit() == expected


def test_several_candidates_in_any_order_share_prefixes(blocks_run):
    plans = [rows(0, 1, 2, 4), rows(3), rows(0, 1, 3), rows(0, 2), rows(0, 1, 2, 3), rows(0, 2)]
    alone = [StitchedModels(BASE, memory=0).nll(plan, IDS) for plan in plans]
    for order in ([0, 1, 2, 3, 4, 5], [5, 2, 0, 1, 4, 3]):
        # Room for three: of each candidate only what the next begins with, and for its layers.
        models = StitchedModels(BASE, memory=3 * STREAM_BYTES)
        blocks_run.clear()
        found = models.nlls([plans[i] for i in order], IDS)
        np.testing.assert_array_equal(found, [alone[i] for i in order])
        # The layers 0, 1, 2, 4 and 3; 3; 2; 3: each prefix once.
        assert len(blocks_run) == 8
    assert models.nlls([], IDS).shape == (0, 7)
