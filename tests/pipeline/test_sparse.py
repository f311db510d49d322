"""The job for layerwise sparsity: its figures, what it writes, what it does not do twice."""

import json

import jax
import numpy as np
import pytest

from jprune.allocate import allocate
from jprune.checkpoints import load, load_checkpoint
from jprune.cli.main import main
from jprune.core.files import read_json
from jprune.llama import to_params
from jprune.llama.masks import count
from jprune.pipeline.job import dry_run, run_config
from jprune.scores import sparsify, weight_stats
from tests.pipeline.runs import eval_ids, ppl, ran

STAGES = [
    "model", "evaluate-before", "calibration", "statistics", "allocation", "prune", "recipe",
    "evaluate-after", "curve-dense", "curve-dlp", "curve-uniform", "export", "checkpoint",
    "report",
]  # fmt: skip


def expected(model, workdir, criterion="wanda", allocation="dlp", sparsity=0.5):
    """What the library gives on the windows that the run drew."""
    llama, ids = load(model), np.load(workdir / "calibration.npz")["ids"]
    density = allocate(allocation, weight_stats(llama, ids), sparsity)
    return density, sparsify(llama, criterion, ids, density=density)


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, to_params(a), to_params(b))


def test_stages_and_figures(sparse_run, model, text):
    workdir, record = sparse_run
    assert [stage["name"] for stage in record["stages"]] == STAGES
    assert record == read_json(workdir / "run.json")
    density, result = expected(model, workdir)
    said = record["sparsity"]
    asked = {key: said[key] for key in ("criterion", "allocation", "pattern", "target")}
    assert asked == {
        "criterion": "wanda", "allocation": "dlp", "pattern": "unstructured", "target": 0.5,
    }  # fmt: skip
    sizes = {name: mask.rows * mask.bits.shape[1] for name, mask in result.masks.items()}
    gone = {name: sizes[name] - count(mask) for name, mask in result.masks.items()}
    assert said["weights"] == sum(sizes.values()) and said["zeros"] == sum(gone.values())
    assert said["achieved"] == pytest.approx(said["zeros"] / said["weights"])
    for index, row in enumerate(said["blocks"]):
        assert row["layer"] == index and row["density"] == pytest.approx(density[index])
        names = [f"layers.{index}.{name}.kernel" for name in row["matrices"]]
        assert len(names) == 7
        of_matrices = [gone[name] / sizes[name] for name in names]
        np.testing.assert_allclose(list(row["matrices"].values()), of_matrices)
        total = sum(gone[n] for n in names) / sum(sizes[n] for n in names)
        assert row["sparsity"] == pytest.approx(total)
    (after,) = record["figures"]["after"]["perplexity"]
    np.testing.assert_allclose(after["ppl"], ppl(result.llama, eval_ids(model, text, 5)), rtol=1e-5)
    assert record["model"]["parameters"]["before"] == record["model"]["parameters"]["after"]
    stored = 4 * record["model"]["parameters"]["after"]
    kept_bytes = stored - 4 * said["zeros"] + -(-said["weights"] // 8)
    assert said["bytes"] == {"stored": stored, "compressed": kept_bytes}


def test_what_is_written_is_the_pruned_model(sparse_run, model):
    workdir, _ = sparse_run
    density, result = expected(model, workdir)
    for folder in ("model", "checkpoints/pruned"):
        checkpoint = load_checkpoint(workdir / folder)
        same(checkpoint.llama, result.llama)
        assert checkpoint.recipe == read_json(workdir / "recipe.json")
    (step,) = read_json(workdir / "recipe.json")["steps"]
    assert step["op"] == "sparse_weights"
    files = {path.stem for path in (workdir / "arrays").glob("*.safetensors")}
    assert set(step["args"]["blocks"]) == files and len(step["args"]["blocks"]) == 4
    allocation = read_json(workdir / "scores" / "allocation.json")
    np.testing.assert_allclose(allocation["density"], density)
    statistics = read_json(workdir / "scores" / "statistics.json")
    ids = np.load(workdir / "calibration.npz")["ids"]
    np.testing.assert_allclose(statistics["mean"], weight_stats(load(model), ids).mean, rtol=1e-6)


def test_the_curve(sparse_run, model, text):
    workdir, record = sparse_run
    curve = record["figures"]["sparsity_curve"]
    ids = eval_ids(model, text, 2)
    np.testing.assert_allclose(curve["dense"], ppl(load(model), ids), rtol=1e-5)
    assert [one["allocation"] for one in curve["series"]] == ["dlp", "uniform"]
    for one in curve["series"]:
        assert one["sparsity"] == [0.25, 0.5]
        for at, target in enumerate(one["sparsity"]):
            _, result = expected(model, workdir, allocation=one["allocation"], sparsity=target)
            np.testing.assert_allclose(one["ppl"][at], ppl(result.llama, ids), rtol=1e-5)
            assert abs(one["achieved"][at] - target) < 0.03


def test_apply_rebuilds_it(sparse_run, tmp_path):
    workdir, _ = sparse_run
    assert main(["apply", f"--recipe={workdir / 'recipe.json'}", f"--out={tmp_path / 'M'}"]) == 0
    same(load(tmp_path / "M"), load(workdir / "model"))


def test_nothing_is_done_twice(sparse_run_copy, sparse_config):
    workdir, record = sparse_run_copy
    assert ran(run_config(sparse_config(), workdir)) == []
    again = run_config(sparse_config(compare=("uniform", "owl")), workdir)
    assert ran(again) == ["curve-owl", "report"]
    lines = dry_run(sparse_config(allocation="uniform", compare=(), curve_windows=0), workdir)
    assert any(line.startswith("allocation") and "allocation was dlp" in line for line in lines)
    changed = run_config(sparse_config(sparsity=0.25, compare=(), curve_windows=0), workdir)
    assert ran(changed) == [
        "allocation", "prune", "recipe", "evaluate-after", "export", "checkpoint", "report",
    ]  # fmt: skip
    blocks = read_json(workdir / "recipe.json")["steps"][0]["args"]["blocks"]
    assert {p.stem for p in (workdir / "arrays").glob("*.safetensors")} == set(blocks)


def test_sparsegpt_stores_its_weights(tmp_path, sparse_config, model, text):
    values = sparse_config(criterion="sparsegpt", allocation="uniform", compare=(), curve_windows=0)
    record = run_config(values, tmp_path)
    assert "statistics" not in [stage["name"] for stage in record["stages"]]
    ids = np.load(tmp_path / "calibration.npz")["ids"]
    result = sparsify(load(model), "sparsegpt", ids, density=0.5)
    same(load(tmp_path / "model"), result.llama)
    (after,) = record["figures"]["after"]["perplexity"]
    np.testing.assert_allclose(after["ppl"], ppl(result.llama, eval_ids(model, text, 5)), rtol=1e-5)


def test_magnitude_needs_no_data(tmp_path, sparse_config, model):
    values = sparse_config(
        criterion="magnitude",
        allocation="linear_depth",
        compare=(),
        curve_windows=0,
        calibration=None,
    )
    record = run_config(values, tmp_path)
    names = [stage["name"] for stage in record["stages"]]
    assert "calibration" not in names and "statistics" not in names
    line = 0.5 + np.linspace(0.15, -0.15, 4)
    np.testing.assert_allclose([row["density"] for row in record["sparsity"]["blocks"]], line)
    result = sparsify(load(model), "magnitude", density=line)
    same(load(tmp_path / "model"), result.llama)


def test_patterns_per_block_under_one_total(tmp_path, sparse_config):
    values = sparse_config(
        pattern="4:8", sparsity=None, allocation="linear_depth", compare=("uniform",)
    )
    record = run_config(values, tmp_path)
    rows = record["sparsity"]["blocks"]
    # 0.5 + 0.15, 0.05, -0.05, -0.15 of 8 is 5.2, 4.4, 3.6, 2.8, in all 16.
    assert [row["pattern"] for row in rows] == ["5:8", "4:8", "4:8", "3:8"]
    assert [row["sparsity"] for row in rows] == [3 / 8, 4 / 8, 4 / 8, 5 / 8]
    assert record["sparsity"]["achieved"] == 0.5 and record["sparsity"]["target"] == 0.5
    for name, kernel in to_params(load(tmp_path / "model"))["layers"]["0"]["mlp"].items():
        kept = (np.asarray(kernel["kernel"]) != 0).reshape(-1, 8, kernel["kernel"].shape[1]).sum(1)
        assert (kept == 5).all(), name
    curve = record["figures"]["sparsity_curve"]
    assert [one["sparsity"] for one in curve["series"]] == [[0.5], [0.5]]


def test_densities_from_the_file_of_another_run(sparse_run, tmp_path, sparse_config):
    workdir, record = sparse_run
    file = tmp_path / "allocation.json"
    file.write_text((workdir / "scores" / "allocation.json").read_text())
    again = run_config(
        sparse_config(allocation=str(file), compare=(), curve_windows=0), tmp_path / "W"
    )
    rows = zip(again["sparsity"]["blocks"], record["sparsity"]["blocks"], strict=True)
    assert all(a["density"] == pytest.approx(b["density"]) for a, b in rows)
    assert again["figures"]["after"] == record["figures"]["after"]
    file.write_text(json.dumps([0.5] * 4))
    changed = run_config(
        sparse_config(allocation=str(file), compare=(), curve_windows=0), tmp_path / "W"
    )
    assert ran(changed)[0] == "allocation"


def test_a_model_on_the_host_gives_the_same(sparse_run, tmp_path, sparse_config):
    workdir, record = sparse_run
    again = run_config(sparse_config(offload="all"), tmp_path)
    assert again["figures"] == record["figures"]
    same(load(tmp_path / "model"), load(workdir / "model"))


def test_on_a_mesh(tmp_path, sparse_config):
    values = sparse_config(criterion="sparsegpt", compare=(), curve_windows=0)
    one = run_config(values, tmp_path / "one")
    many = run_config(values | {"mesh": "data:2,fsdp:2,tensor:2"}, tmp_path / "many")
    assert many["sparsity"]["zeros"] == one["sparsity"]["zeros"]
    for when in ("before", "after"):
        (a,), (b,) = (run["figures"][when]["perplexity"] for run in (one, many))
        assert a["ppl"] == pytest.approx(b["ppl"], rel=1e-4)
