"""The suite `search` runs what it says: other candidates each time, and no other programs."""

import jax
import numpy as np
import pytest

from jprune.llama import Masked, forward_flops, next_token_nll
from jprune.measure import Measurement, measure, search, search_jobs
from jprune.transforms import drop_blocks, stitch_models
from tests.tiny import tiny

SIZE = (3, 16)


def test_a_trial_is_a_forward_pass_of_another_candidate_each_time(monkeypatch):
    llama, plans = tiny(4), []

    def drawn(*arguments):
        plans.append(draw(*arguments))
        return plans[-1]

    draw = search.random_plan
    monkeypatch.setattr(search, "random_plan", drawn)
    forward, trial = search_jobs(llama, evaluation=SIZE, remove=1)
    assert forward.name == "perplexity of 3 layers, 3 x 16"
    assert trial.name == "one search trial, 4 - 1 layers of 4 models, 3 x 16"
    assert forward.flops == trial.flops == forward_flops(drop_blocks([3])(llama), 48, 16)
    ids = np.random.default_rng(0).integers(0, 97, SIZE)
    short = np.asarray(next_token_nll(drop_blocks([3])(llama), ids)).mean()
    assert forward.run() == pytest.approx(short, abs=1e-5)
    results = [trial.run() for _ in range(3)]
    assert len(set(plans)) == 3
    variants = [search.finetuned(llama, key) for key in jax.random.split(jax.random.key(1), 3)]
    for plan, nll in zip(plans, results, strict=True):
        plan.check(4, 3, remove=1)
        model = stitch_models(plan, llama, variants)
        expected = np.asarray(next_token_nll(model, ids)).mean(axis=1)
        np.testing.assert_allclose(nll, expected, atol=1e-5, rtol=0)


def test_measured_beside_the_forward_pass():
    jobs = search_jobs(tiny(4), evaluation=SIZE, remove=1, variants=2)
    forward = Measurement(jobs[0].name, 2.0, 2.0, 0.0, 1)
    trial = Measurement(jobs[1].name, 2.5, 3.0, 0.0, 1, compilations=7)
    found = jobs[1].figures(trial, {forward.name: forward})
    assert found == {"ratio": 1.25, "trials_per_minute": 24.0, "compilations": 7}
    jobs[1].run()  # of two small models the first trial alone may have no layer to mix
    before = len(jax.live_arrays())
    assert measure(jobs[1], repeats=4).compilations == 0
    assert len(jax.live_arrays()) == before  # no residual streams are kept


def test_published_sizes():
    forward, trial = search_jobs(jax.eval_shape(lambda: tiny(32)))
    assert trial.name == "one search trial, 32 - 9 layers of 4 models, 64 x 512"


def test_plans_are_from_the_whole_space():
    rng = np.random.default_rng(0)
    plans = [search.random_plan(rng, 6, 2, 3) for _ in range(200)]
    kept = np.array([[row.layer for row in plan.layers] for plan in plans])
    assert kept.shape == (200, 4) and (np.diff(kept) > 0).all()
    share = np.bincount(kept.ravel(), minlength=6) / 200
    assert share == pytest.approx(np.full(6, 4 / 6), abs=0.1)
    rows = [row for plan in plans for row in plan.layers]
    each = {chosen: 0 for chosen in ((), (0,), (1,), (2,), (0, 1), (0, 2), (1, 2), (0, 1, 2))}
    for row in rows:
        each[row.variants] += 1 / len(rows)
    assert list(each.values()) == pytest.approx([1 / 8] * 8, abs=0.04)
    factors = np.array([row.factor for row in rows])
    assert (
        factors.min() >= 0 and factors.max() < 1 and factors.mean() == pytest.approx(0.5, abs=0.05)
    )


def test_finetunes_are_near_their_base():
    llama = tiny(2)
    up = llama.blocks[0].mlp.up
    mask = np.arange(up.kernel.size).reshape(up.kernel.shape) % 2 == 0
    masked = up.replace(kernel=Masked(up.kernel, mask))
    block = llama.blocks[0].replace(mlp=llama.blocks[0].mlp.replace(up=masked))
    llama = llama.replace(blocks=(block, llama.blocks[1]))
    one, other = (search.finetuned(llama, jax.random.key(seed)) for seed in range(2))
    assert one.embed is llama.embed and one.origins == llama.origins
    np.testing.assert_array_equal(one.blocks[0].mlp.up.kernel.mask, mask)
    for near, also, leaf in zip(
        *(jax.tree.leaves(x.blocks[1]) for x in (one, other, llama)), strict=True
    ):
        assert np.std(near - leaf) == pytest.approx(1e-3, rel=0.5)
        assert np.std(near - also) == pytest.approx(2**0.5 * 1e-3, rel=0.5)
