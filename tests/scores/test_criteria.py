"""Every criterion against its formula, written out over the materialised model."""

import sys

import jax
import numpy as np
import pytest

from jprune.core.errors import InputError
from jprune.llama import context, embed, next_token_nll, stack, unstack
from jprune.llama.forward import attention_out, mlp_out
from jprune.scores import Scores, Unit, score, units
from tests.llama.test_stack import mixed
from tests.tiny import tiny, windows, without

LAYERS = 4
LLAMA = tiny(LAYERS)
IDS = windows(5, 16)
nll = jax.jit(next_token_nll)


def gates(removed):
    on = np.ones((LAYERS, 2), bool)
    for layer, part in removed:
        on[layer, {"block": [0, 1], "attention": [0], "mlp": [1]}[part]] = False
    return on


def window_nll(removed=()):
    return np.asarray(nll(without(LLAMA, gates(removed)), IDS), np.float64).mean(axis=1)


def unit_weights(tree, unit):
    """All arrays of a unit in a tree shaped like the model."""
    block = tree.blocks[unit.layer]
    attn, mlp = (block.attn, block.attn_norm), (block.mlp, block.mlp_norm)
    return jax.tree.leaves({"block": (attn, mlp), "attention": attn, "mlp": mlp}[unit.part])


@pytest.mark.parametrize("granularity", ["block", "sublayer"])
@pytest.mark.parametrize("power", [1.0, 2.0])
def test_magnitude(granularity, power):
    expected = [
        sum((np.abs(np.asarray(w, np.float64)) ** power).sum() for w in unit_weights(LLAMA, unit))
        for unit in units(LLAMA, granularity)
    ]
    found = score(LLAMA, "magnitude", granularity=granularity, power=power)
    np.testing.assert_allclose(found.scores, expected, rtol=1e-5)
    assert list(found.order) == list(np.argsort(expected))


def mean_gradient(ids):
    return jax.jit(jax.grad(lambda llama: next_token_nll(llama, ids).mean()))(LLAMA)


def products(gradient, unit):
    pairs = zip(unit_weights(LLAMA, unit), unit_weights(gradient, unit), strict=True)
    return [np.asarray(w, np.float64) * np.asarray(g, np.float64) for w, g in pairs]


# Three batches, the last one filled up; one batch.
@pytest.mark.parametrize("batch_size", [2, 5])
def test_taylor_takes_the_gradient_over_all_windows(batch_size):
    gradient = mean_gradient(IDS)
    for granularity in ("block", "sublayer"):
        expected = [
            sum(np.abs(p).sum() for p in products(gradient, unit))
            for unit in units(LLAMA, granularity)
        ]
        found = score(LLAMA, "taylor", IDS, granularity=granularity, batch_size=batch_size)
        np.testing.assert_allclose(found.scores, expected, rtol=1e-4)


@pytest.mark.parametrize(("reduce", "power"), [("sum_of_abs", 1), ("fisher", 2)])
def test_taylor_window_by_window(reduce, power):
    expected = np.zeros(LAYERS)
    for window in IDS:
        gradient = mean_gradient(window[None])
        for unit in units(LLAMA):
            expected[unit.layer] += sum(
                (np.abs(p) ** power).sum() for p in products(gradient, unit)
            )
    found = score(LLAMA, "taylor", IDS, reduce=reduce)
    np.testing.assert_allclose(found.scores, expected, rtol=1e-4)


def test_taylor_with_a_power():
    gradient = mean_gradient(IDS)
    expected = [sum((p**2).sum() for p in products(gradient, unit)) for unit in units(LLAMA)]
    np.testing.assert_allclose(score(LLAMA, "taylor", IDS, power=2.0).scores, expected, rtol=1e-4)


@pytest.mark.parametrize("granularity", ["block", "attention", "mlp", "sublayer"])
def test_perplexity_is_that_of_the_model_without_the_unit(granularity):
    found = score(LLAMA, "perplexity", IDS, granularity=granularity, batch_size=2)
    full = window_nll()
    for position, unit in enumerate(units(LLAMA, granularity)):
        removed = window_nll([unit])
        assert np.isclose(found.scores[position], np.exp(removed.mean()), rtol=2e-5)
        assert np.isclose(found.delta_nll[position], (removed - full).mean(), atol=1e-5)
        error = np.std(removed - full, ddof=1) / np.sqrt(len(IDS))
        assert np.isclose(found.standard_error[position], error, rtol=1e-3)
        np.testing.assert_allclose(found.window_nll[position], removed, atol=1e-5)
    assert np.isclose(found.settings["full_ppl"], np.exp(full.mean()), rtol=2e-5)


def test_one_window_has_no_standard_error():
    found = score(LLAMA, "perplexity", IDS[:1])
    assert found.standard_error == (None,) * LAYERS


def residuals():
    """The residual stream before every sublayer and after the last, eagerly, in order."""
    ctx = context(LLAMA.config, IDS.shape[1])
    h = embed(LLAMA, IDS)
    states = [h]
    for block in LLAMA.blocks:
        h = h + attention_out(block, h, ctx)
        states.append(h)
        h = h + mlp_out(block, h, ctx)
        states.append(h)
    return [np.asarray(state, np.float64) for state in states]


def cosine(a, b):
    return (a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)


def test_influence():
    states = residuals()
    blocks = [1 - cosine(states[2 * i], states[2 * i + 2]).mean() for i in range(LAYERS)]
    found = score(LLAMA, "influence", IDS, batch_size=2)
    np.testing.assert_allclose(found.scores, blocks, atol=1e-5)
    parts = [1 - cosine(a, b).mean() for a, b in zip(states, states[1:], strict=False)]
    found = score(LLAMA, "influence", IDS, granularity="sublayer")
    np.testing.assert_allclose(found.scores, parts, atol=1e-5)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_angular(n):
    last = [state[:, -1] for state in residuals()[::2]]
    expected = [
        (np.arccos(np.clip(cosine(last[i], last[i + n]), -1, 1)) / np.pi).mean()
        for i in range(LAYERS - n + 1)
    ]
    found = score(LLAMA, "angular", IDS, remove=n, batch_size=2)
    np.testing.assert_allclose(found.window_scores, expected, atol=1e-5)
    best = int(np.argmin(expected))
    assert found.order == tuple(range(best, best + n)) and found.n == n
    assert found.scores == ((None,) * LAYERS if n > 1 else found.window_scores)


def test_angular_avoids_protected_blocks():
    free = score(LLAMA, "angular", IDS, remove=1)
    best = free.order[0]
    moved = score(LLAMA, "angular", IDS, remove=1, protect=[best])
    rest = [i for i in np.argsort(free.window_scores) if i != best]
    assert moved.order == (rest[0],)
    with pytest.raises(InputError, match="no 2 contiguous blocks can go"):
        score(LLAMA, "angular", IDS, remove=2, protect="1,2")


def test_greedy_follows_the_cheapest_removal_at_every_round():
    found = score(LLAMA, "greedy", IDS, granularity="sublayer", remove=3, protect="0")
    removed, before = [], window_nll()
    candidates = [unit for unit in units(LLAMA, "sublayer") if unit.layer != 0]
    for entry in found.path:
        losses = {unit: window_nll([*removed, unit]) for unit in candidates}
        best = min(losses, key=lambda unit: losses[unit].mean())
        assert (entry["layer"], entry["part"]) == best
        assert np.isclose(entry["ppl"], np.exp(losses[best].mean()), rtol=2e-5)
        assert np.isclose(entry["delta_nll"], (losses[best] - before).mean(), atol=1e-5)
        removed.append(best)
        candidates.remove(best)
        before = losses[best]
    assert [found.units[position] for position in found.order] == removed
    assert sum(value is not None for value in found.scores) == 3


def test_greedy_stops_before_nothing_is_left():
    assert len(score(LLAMA, "greedy", IDS).path) == LAYERS - 1
    assert len(score(LLAMA, "greedy", IDS, protect="0").path) == LAYERS - 1
    with pytest.raises(InputError, match="only 3 can go"):
        score(LLAMA, "greedy", IDS, remove=4)


def test_baselines():
    assert score(LLAMA, "last").order == (2, 1, 0, 3)
    assert score(LLAMA, "last", protect="1").order == (2, 0, 3)
    last = score(LLAMA, "last", granularity="sublayer")
    assert [last.units[i] for i in last.order[:2]] == [Unit(2, "mlp"), Unit(2, "attention")]
    orders = {score(LLAMA, "random", seed=seed).order for seed in range(20)}
    assert len(orders) > 10 and all(sorted(order) == [0, 1, 2, 3] for order in orders)
    assert score(LLAMA, "random", seed=3) == score(LLAMA, "random", seed=3)


@pytest.mark.parametrize("criterion", ["magnitude", "taylor", "perplexity", "influence"])
def test_removed_sublayers_have_no_score_and_forms_agree(criterion):
    llama = mixed()
    found = score(llama, criterion, IDS, granularity="sublayer")
    missing = found.units.index(Unit(2, "attention"))
    assert found.scores[missing] is None and missing not in found.order
    assert len(found.order) == 9
    stacked = score(stack(llama), criterion, IDS, granularity="sublayer")
    values = [[s for s in x.scores if s is not None] for x in (found, stacked)]
    np.testing.assert_allclose(*values, rtol=1e-5)


def test_virtual_removal_is_the_materialised_one_on_an_already_pruned_model():
    llama = mixed()
    found = score(llama, "perplexity", IDS)
    kept = tuple(block for i, block in enumerate(unstack(llama).blocks) if i != 3)
    expected = np.exp(np.asarray(nll(llama.replace(blocks=kept), IDS), np.float64).mean())
    assert np.isclose(found.scores[3], expected, rtol=2e-5)


def by_index(llama, ids, granularity, offset=0):
    """A criterion of the user's own, for the test below."""
    return [offset - unit.layer for unit in units(llama, granularity)]


def gives_nothing(llama, ids, granularity):
    """A criterion that is wrong."""


def gives_too_few(llama, ids, granularity):
    """Another."""
    return [1.0]


def test_a_criterion_of_ones_own_must_give_scores():
    with pytest.raises(InputError, match="gives_nothing should give a number or None per unit"):
        score(LLAMA, f"{__name__}:gives_nothing", IDS)
    with pytest.raises(InputError, match="gives_too_few gave 1 scores for 4 units"):
        score(LLAMA, f"{__name__}:gives_too_few", IDS)


def test_a_criterion_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "my_criterion.py").write_text(
        "def flat(llama, ids, granularity):\n    return [0] * 4"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert score(LLAMA, "my_criterion:flat", IDS).scores == (0.0,) * 4


def test_a_criterion_of_ones_own():
    found = score(LLAMA, f"{__name__}:by_index", IDS, offset=7, protect="3")
    assert isinstance(found, Scores) and found.scores == (7.0, 6.0, 5.0, 4.0)
    assert found.order == (2, 1, 0)


@pytest.mark.parametrize(
    ("criterion", "kwargs", "message"),
    [
        ("taylr", {}, "unknown criterion 'taylr'; did you mean 'taylor'"),
        ("taylor", {"powr": 2}, "unknown option of taylor 'powr'; did you mean 'power'"),
        ("taylor", {"reduce": "fishr"}, "unknown reduction 'fishr'; did you mean 'fisher'"),
        ("nowhere.at_all:f", {}, "cannot import the criterion"),
        ("math:nothing", {}, "module math has no function nothing"),
        ("math:pi", {}, "module math has no function pi"),
        (":f", {}, "cannot import the criterion ':f'"),
        ("angular", {"granularity": "mlp"}, "use --granularity=block"),
        ("angular", {"remove": 4}, "need remove from 1 to 3"),
        ("magnitude", {"protect": "9"}, "layer 9 is outside"),
    ],
)
def test_wrong_calls(criterion, kwargs, message):
    with pytest.raises(InputError, match=message):
        score(LLAMA, criterion, IDS, **kwargs)


def test_criteria_of_data_need_data():
    with pytest.raises(InputError, match="perplexity needs calibration windows"):
        score(LLAMA, "perplexity")
    with pytest.raises(InputError, match="windows of 1 tokens predict nothing"):
        score(LLAMA, "perplexity", IDS[:, :1])
    with pytest.raises(InputError, match="0 windows of 16 tokens predict nothing"):
        score(LLAMA, "perplexity", IDS[:0])
    with pytest.raises(InputError, match="vocabulary"):
        score(LLAMA, "influence", IDS + 97)
