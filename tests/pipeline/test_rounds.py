"""Rounds of pruning and retraining: each goes on from the one before, one recipe makes the last."""

import jax
import numpy as np
import pytest

from jprune.checkpoints import load, load_checkpoint
from jprune.cli.main import main
from jprune.core.errors import InputError
from jprune.core.files import read_json
from jprune.llama import to_params
from jprune.pipeline.job import dry_run, run_config
from tests.pipeline.runs import eval_ids, ppl, ran
from tests.pipeline.test_retraining import retrain


@pytest.fixture
def rounds(config, text):
    """A function (changes) -> config of two rounds that take a few seconds each."""

    def make(rounds=2, **changes):
        group = retrain(text, "lora", train={"steps": 2, "warmup_steps": 0} | changes)
        return config(job="rounds", rounds=rounds, curve_windows=0, retrain=group)

    return make


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, to_params(a), to_params(b))


def test_two_rounds(tmp_path, rounds, model, text):
    workdir = tmp_path / "W"
    record = run_config(rounds(), workdir)
    assert ran(record) == ["round-1", "round-2", "export", "report"]
    first, second = (workdir / "rounds" / str(n) for n in (1, 2))
    # The second starts from what the first ends with.
    begun = read_json(second / "config.json")["model"]
    assert begun["sha256"] == load_checkpoint(first / "checkpoints" / "retrained").sha256
    final = load(workdir / "model")
    same(final, load(second / "model"))
    same(final, load(workdir / "checkpoints" / "retrained"))
    assert final.num_layers == 2
    left = [origin.index for origin in load(workdir / "checkpoints" / "retrained").origins]
    assert sorted(unit["layer"] for unit in record["removed"]) == sorted({0, 1, 2, 3} - {*left})
    recipe = read_json(workdir / "recipe.json")
    ops = ["drop_blocks", "lora_weights"]
    assert [step["op"] for step in recipe["steps"]] == ops * 2
    assert recipe["sources"][0]["sha256"] == load_checkpoint(model).sha256
    out = tmp_path / "applied"
    assert main(["apply", f"--recipe={workdir / 'recipe.json'}", f"--out={out}"]) == 0
    same(load(out), final)
    ids = eval_ids(model, text, 5)
    figures = record["figures"]
    for when, llama in (("before", load(model)), ("retrained", final)):
        (figure,) = figures[when]["perplexity"]
        np.testing.assert_allclose(figure["ppl"], ppl(llama, ids), rtol=1e-5)
    (one,) = figures["rounds"][0]["figures"]["retrained"]["perplexity"]
    np.testing.assert_allclose(one["ppl"], ppl(load(first / "model"), ids), rtol=1e-5)
    assert [r["model"]["layers"]["after"] for r in figures["rounds"]] == [3, 2]
    page = (workdir / "report.html").read_text()
    assert f"{one['ppl']:.4g}" in page and "Round" in page

    assert ran(run_config(rounds(), workdir)) == []
    lines = dry_run(rounds(3), workdir)
    assert [line.split()[1] for line in lines[:5]] == ["cached", "cached", "to", "to", "to"]
    # Other keys: the second round belongs to another model then, and begins anew.
    changed = run_config(rounds(learning_rate=0.01), workdir)
    assert ran(changed) == ["round-1", "round-2", "export", "report"]
    assert read_json(second / "config.json")["model"]["sha256"] != begun["sha256"]
    names = {path.name for path in (workdir / "rounds" / "1" / "scores").iterdir()}
    assert "perplexity.json" in names


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rounds": 0}, "'rounds' takes an integer from 1 on, not 0"),
        ({"rounds": None}, "'rounds' takes an integer from 1 on, not None"),
        ({"rounds": 4}, "4 of 4|all 4|keep at least one"),
        ({"round": 2}, "unknown config key 'round'"),
    ],
)
def test_what_is_refused(tmp_path, rounds, changes, message):
    with pytest.raises(InputError, match=message):
        run_config(rounds() | changes, tmp_path / "W")
