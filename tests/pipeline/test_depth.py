"""The depth pruning job: its figures, what it writes, what it does not do twice."""

import shutil

import jax
import numpy as np
import pytest

from jprune.checkpoints import load, load_checkpoint, load_tokenizer, save
from jprune.core.files import read_json
from jprune.llama import to_params
from jprune.pipeline.job import dry_run, run_config
from jprune.transforms import Recipe, drop_blocks, drop_sublayers
from tests.pipeline.runs import STAGES, eval_ids, ppl


def test_figures_are_those_of_the_models(finished, config, model, text):
    workdir, record = finished
    assert [stage["name"] for stage in record["stages"]] == STAGES
    assert record == read_json(workdir / "run.json")
    llama = load(model)
    calibration = np.load(workdir / "calibration.npz")["ids"]
    assert calibration.shape == (3, 16)
    without = [ppl(drop_blocks([layer])(llama), calibration) for layer in range(4)]
    scores = read_json(workdir / "scores" / "perplexity.json")
    np.testing.assert_allclose(scores["scores"], without, rtol=1e-5)
    least = int(np.argmin(without))
    assert record["removed"] == [{"layer": least, "part": "block"}]

    ids = eval_ids(model, text, 5)
    pruned = drop_blocks([least])(llama)
    for when, expected in (("before", llama), ("after", pruned)):
        (entry,) = record["figures"][when]["perplexity"]
        np.testing.assert_allclose(entry["ppl"], ppl(expected, ids), rtol=1e-5)
        assert entry["protocol"]["num_windows"] == 5
        assert entry["protocol"]["dtype"] == "float32"
        assert entry["data"] == str(text)
    sizes = record["model"]
    assert sizes["layers"] == {"before": 4, "after": 3}
    counts = [sum(leaf.size for leaf in jax.tree.leaves(m)) for m in (llama, pruned)]
    assert list(sizes["parameters"].values()) == counts
    assert list(sizes["bytes"].values()) == [4 * n for n in counts]


def test_exports_and_report(finished, model, text):
    workdir, record = finished
    (gone,) = (unit["layer"] for unit in record["removed"])
    kept = [layer for layer in range(4) if layer != gone]
    expected = drop_blocks([gone])(load(model))
    for folder in ("model", "checkpoints/pruned"):
        checkpoint = load_checkpoint(workdir / folder)
        assert checkpoint.llama.num_layers == 3
        jax.tree.map(np.testing.assert_array_equal, *map(to_params, (checkpoint.llama, expected)))
        assert checkpoint.recipe == read_json(workdir / "recipe.json")
        assert checkpoint.tokenizer.encode("the cat") == load_tokenizer(model).encode("the cat")
    assert [o.index for o in load(workdir / "checkpoints/pruned").origins] == kept
    recipe = read_json(workdir / "recipe.json")
    assert recipe["steps"] == [{"op": "drop_blocks", "args": {"blocks": [gone]}}]
    assert recipe["sources"][0]["sha256"] == load_checkpoint(model).sha256
    card = (workdir / "model" / "README.md").read_text()
    for when in ("before", "after"):
        assert f"{record['figures'][when]['perplexity'][0]['ppl']:.4g}" in card
    page = (workdir / "report.html").read_text()
    assert page.startswith("<!") and str(text) in page
    assert (workdir / "plots" / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert read_json(workdir / "config.json")["name"] == "test"


def test_curve(finished, model, text):
    workdir, record = finished
    curve = record["figures"]["curve"]
    assert curve["data"] == str(text)
    assert curve["protocol"]["num_windows"] == 2
    llama, ids = load(model), eval_ids(model, text, 2)
    series = {one["criterion"]: one for one in curve["series"]}
    assert set(series) == {"perplexity", "last", "random"}
    order = read_json(workdir / "scores" / "perplexity.json")["order"]
    paths = {"perplexity": order, "last": [2, 1, 0]}
    for name, path in paths.items():
        assert series[name]["removed"] == [0, 1, 2, 3]
        expected = [ppl(llama, ids)]
        expected += [ppl(drop_blocks(path[:n])(llama), ids) for n in (1, 2, 3)]
        np.testing.assert_allclose(series[name]["ppl"], expected, rtol=1e-5)
    random = series["random"]
    assert random["seeds"] == [0, 1]
    orders = [one["order"] for one in read_json(workdir / "scores" / "random.json")["orders"]]
    for n in (1, 2, 3):
        expected = [ppl(drop_blocks(one[:n])(llama), ids) for one in orders]
        np.testing.assert_allclose(random["ppl"][n], np.mean(expected), rtol=1e-5)
        np.testing.assert_allclose(random["ppl_min"][n], min(expected), rtol=1e-5)
        np.testing.assert_allclose(random["ppl_max"][n], max(expected), rtol=1e-5)


def test_the_recipe_rebuilds_the_model_from_any_folder(tmp_path, config, model, monkeypatch):
    shutil.copytree(model, tmp_path / "here" / "M")
    save(tmp_path / "here" / "orbax", load(model), load_tokenizer(model), Recipe().to_json())
    monkeypatch.chdir(tmp_path / "here")
    for name in ("M", "orbax"):
        run_config(config(model=name, curve_windows=0), f"W-{name}")
        (source,) = read_json(f"W-{name}/recipe.json")["sources"]
        path = (tmp_path / "here" / name).resolve()
        assert source == {"name": name, "path": str(path), "sha256": load_checkpoint(name).sha256}


@pytest.mark.parametrize("granularity", ["attention", "mlp", "sublayer"])
def test_sublayers(tmp_path, config, model, text, granularity):
    record = run_config(config(granularity=granularity, remove=2, curve_windows=0), tmp_path)
    gone = {"attention": [], "mlp": []}
    for unit in record["removed"]:
        gone[unit["part"]].append(unit["layer"])
    assert sum(map(len, gone.values())) == 2
    expected = ppl(drop_sublayers(**gone)(load(model)), eval_ids(model, text, 5))
    np.testing.assert_allclose(
        record["figures"]["after"]["perplexity"][0]["ppl"], expected, rtol=1e-5
    )
    true = load(tmp_path / "checkpoints/pruned")
    blocks = [b for b in true.blocks]
    whole = set(gone["attention"]) & set(gone["mlp"])
    assert sum(b.attn is None for b in blocks) == len(set(gone["attention"]) - whole)
    assert sum(b.mlp is None for b in blocks) == len(set(gone["mlp"]) - whole)
    zeroed = load(tmp_path / "model")  # the stock form adds nothing in place of a sublayer
    np.testing.assert_allclose(ppl(zeroed, eval_ids(model, text, 5)), expected, rtol=1e-5)
    if not whole:
        assert "Removed sublayers" in (tmp_path / "model" / "README.md").read_text()


def test_a_pruned_checkpoint_can_be_pruned_again(finished, config, tmp_path, model, text):
    workdir, first = finished
    values = config(model=str(workdir / "checkpoints/pruned"), curve_windows=0)
    second = run_config(values, tmp_path / "again")
    steps = read_json(tmp_path / "again" / "recipe.json")["steps"]
    llama = load(model)
    for step in steps:
        llama = drop_blocks(step["args"]["blocks"])(llama)
    assert len(steps) == 2 and llama.num_layers == 2
    np.testing.assert_allclose(
        second["figures"]["after"]["perplexity"][0]["ppl"],
        ppl(llama, eval_ids(model, text, 5)),
        rtol=1e-5,
    )
    assert "memory" in dry_run(values, tmp_path / "other")[-2]


def test_running_in_bfloat16_does_not_round_the_export(tmp_path, config, model):
    record = run_config(config(dtype="bfloat16", curve_windows=0), tmp_path)
    assert record["figures"]["before"]["perplexity"][0]["protocol"]["dtype"] == "bfloat16"
    (gone,) = (unit["layer"] for unit in record["removed"])
    expected = drop_blocks([gone])(load(model))
    for folder in ("model", "checkpoints/pruned"):
        np.testing.assert_array_equal(load(tmp_path / folder).embed, expected.embed)
