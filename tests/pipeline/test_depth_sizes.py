"""Shapes, memory and dry runs of the depth pruning job, before anything is loaded."""

import jax
import numpy as np

from jprune.checkpoints import export_huggingface, load, save
from jprune.core.files import read_json, write_json
from jprune.pipeline.depth import DepthRun
from jprune.pipeline.depth_config import depth_config
from jprune.pipeline.estimate import memory_bytes
from jprune.pipeline.job import dry_run, run_config
from jprune.pipeline.source import find_model
from jprune.transforms import drop_blocks, drop_sublayers
from tests.pipeline.runs import STAGES
from tests.tiny import tiny


def test_shapes_are_known_without_loading_the_model(tmp_path, model, monkeypatch):
    llama = drop_sublayers(mlp=[1])(load(model))
    save(tmp_path / "orbax", llama)
    tied = tmp_path / "tied"  # by its tensors, whatever its config says
    export_huggingface(tied, tiny(2, vocab_size=300, tie_word_embeddings=True))
    values = read_json(tied / "config.json")
    write_json(tied / "config.json", values | {"tie_word_embeddings": False})
    loaded = {path: load(path) for path in (model, tmp_path / "orbax", tied)}
    monkeypatch.setattr("jprune.pipeline.source.load_checkpoint", None)
    for path, expected in loaded.items():
        shapes = find_model(path, None).abstract()
        assert jax.tree.structure(shapes) == jax.tree.structure(expected)
        jax.tree.map(lambda a, b: np.testing.assert_equal(a.shape, b.shape), shapes, expected)
    assert shapes.lm_head is None


def test_never_are_two_models_held(tmp_path, config, monkeypatch):
    held = []
    run = DepthRun._load_exact

    def watched(self):
        exact = run(self)
        held.append((self.checkpoint.is_made, {type(b).__name__ for b in exact.blocks}))
        return exact

    monkeypatch.setattr(DepthRun, "_load_exact", watched)
    for dtype in ("float32", "bfloat16"):
        run_config(config(dtype=dtype, curve_windows=0, remove=0), tmp_path / dtype)
    assert held == [(False, {"Block"})] * 2


def test_memory_counts_what_is_held(model, config):
    values = {k: v for k, v in config(eval_windows=1).items() if k != "job"}
    estimates = {}
    for dtype in ("float32", "bfloat16"):
        source = find_model(model, dtype)
        llama = source.abstract()
        rest = sum(leaf.size for leaf in jax.tree.leaves(drop_blocks([0])(llama)))
        estimates[dtype] = memory_bytes(llama, rest, depth_config(values), source)
        whole = sum(leaf.size for leaf in jax.tree.leaves(llama))
        blocks = sum(leaf.size for leaf in jax.tree.leaves(llama.blocks))
        running = source.dtype.itemsize * (whole + blocks * 3 // 4)
        assert estimates[dtype] >= max(running, 4 * whole)
    assert estimates["bfloat16"] < estimates["float32"]


def test_memory_of_taylor_grows_with_the_calibration_windows(model, config):
    values = {k: v for k, v in config(criterion="taylor", compare=[]).items() if k != "job"}
    source = find_model(model, "float32")
    llama = source.abstract()
    few, many = (
        memory_bytes(llama, 0, depth_config(values | {"num_windows": n}), source)
        for n in (1000, 3000)
    )
    inputs = 2000 * values["window_length"] * llama.embed.shape[1] * 4 * (1 + len(llama.blocks))
    assert inputs <= many - few <= 1.1 * inputs


def test_dry_run(tmp_path, config, model):
    workdir = tmp_path / "W"
    lines = dry_run(config(), workdir)
    assert not workdir.exists()
    assert lines[0] == "model            to run: not run yet"
    assert [line.split()[0] for line in lines[: len(STAGES)]] == STAGES
    before = sum(leaf.size for leaf in jax.tree.leaves(load(model)))
    after = sum(leaf.size for leaf in jax.tree.leaves(drop_blocks([0])(load(model))))
    expected = f"parameters: {before / 1000:.1f}K -> {after / 1000:.1f}K"
    assert lines[len(STAGES)].startswith(expected)
    assert lines[-2].startswith("memory: about ") and lines[-1].startswith("disk: about ")
    run_config(config(), workdir)
    files = sorted(workdir.rglob("*"))
    lines = dict(line.split(maxsplit=1) for line in dry_run(config(remove=2), workdir))
    assert lines["score"] == "cached"
    assert lines["recipe"] == "to run: remove was 1, is 2"
    assert lines["evaluate-before"] == "cached"
    assert lines["evaluate-after"] == "to run: recipe changed"
    assert sorted(workdir.rglob("*")) == files


def test_dry_run_gives_a_range_where_sublayers_differ_in_size(tmp_path, config, model):
    llama = load(model)
    counts = sorted(
        sum(leaf.size for leaf in jax.tree.leaves(m))
        for m in (drop_sublayers(attention=[0])(llama), drop_sublayers(mlp=[0])(llama))
    )
    (line,) = (
        line for line in dry_run(config(granularity="sublayer"), tmp_path) if "parameters" in line
    )
    assert f"-> {counts[0] / 1000:.1f}K to {counts[1] / 1000:.1f}K" in line
