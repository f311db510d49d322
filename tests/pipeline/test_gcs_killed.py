"""A run with everything on an object store, killed and resumed."""

import os
import signal
import subprocess
import sys

import pytest

from jprune.checkpoints import load
from jprune.core.errors import InputError
from jprune.core.files import as_path, is_complete, read_json
from jprune.pipeline import source
from jprune.pipeline.job import dry_run, run_config
from tests.pipeline.runs import STAGES, ran
from tests.standins.gcs_store import Trap

W = "gs://bucket/W"
KEYS = {
    "remove": 1, "num_windows": 3, "window_length": 16, "sample": "stream", "eval_windows": 5,
    "curve_windows": 2, "curve_seeds": 2,
}  # fmt: skip


@pytest.fixture
def keys(gcs, model, text):
    """The keys of a small run whose inputs are on the store."""
    gcs.put("data/text.txt", text.read_bytes())
    data = "gs://bucket/data/text.txt"
    address = gcs.put_folder("models/tiny", model)
    return KEYS | {"model": address, "calibration": data, "eval": data}


def start(gcs, keys):
    command = [sys.executable, "-m", "jprune", "run", "--config=shortened_llama:ppl"]
    command += [f"--config.{key}={value}" for key, value in keys.items()] + [f"--workdir={W}"]
    path = os.pathsep.join(filter(None, sys.path))
    env = os.environ | gcs.environment | {"PYTHONPATH": path, "JPRUNE_TYPECHECK": "0"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)


def kill_at(gcs, keys, pattern):
    """Kills a run while the store has an upload in hand that nobody sees yet."""
    gcs.trap = trap = Trap(pattern)
    process = start(gcs, keys)
    try:
        assert trap.sprung.wait(120), process.stderr.read() if process.poll() is not None else ""
        before = gcs.objects
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    trap.opened.set()
    gcs.trap = None
    assert gcs.objects == before  # the held upload never appears
    return {name.removeprefix("W/") for name in before if name.startswith("W/")}


def recorded(names):
    done = {n for n in names if n.startswith("stages/")}
    return {n for n in done if read_json(f"{W}/{n}").get("status") == "done"}


def test_killed_and_resumed_to_the_same_result(gcs, keys, tmp_path):
    whole = run_config({**keys, "job": "depth", "eval": (keys["eval"],)}, tmp_path / "W", name="x")

    names = kill_at(gcs, keys, "W/scores/perplexity.json")
    assert recorded(names) == {"stages/model.json", "stages/calibration.json"}

    names = kill_at(gcs, keys, "W/model/README.md")  # after the weights
    assert "model/model.safetensors" in names and "stages/curve.json" in recorded(names)
    assert "stages/export.json" not in recorded(names)
    assert not is_complete(f"{W}/model")
    with pytest.raises(InputError, match="model is half-written"):
        load(f"{W}/model")

    names = kill_at(gcs, keys, "W/checkpoints/pruned/arrays/.*/d/.*")  # by TensorStore
    assert is_complete(f"{W}/model") and not is_complete(f"{W}/checkpoints/pruned")
    with pytest.raises(InputError, match="pruned is half-written"):
        load(f"{W}/checkpoints/pruned")

    kill_at(gcs, keys, "W/checkpoints/pruned/jprune_manifest.json")  # all is there but the mark
    with pytest.raises(InputError, match="pruned is half-written"):
        load(f"{W}/checkpoints/pruned")

    _, err = (process := start(gcs, keys)).communicate()
    assert process.returncode == 0, err
    assert err.count(b": cached") == len(STAGES) - 2 and b"[10/11] checkpoint: running" in err

    record = read_json(f"{W}/run.json")
    assert {stage["status"] for stage in record["stages"]} <= {"done", "cached"}
    for part in ("figures", "removed"):
        assert record[part] == whole[part]
    there = {n.removeprefix("W/"): d for n, d in gcs.objects.items() if n.startswith("W/")}
    for name in ("model/model.safetensors", "model/config.json", "recipe.json", "calibration.npz"):
        assert there[name] == (tmp_path / "W" / name).read_bytes(), name
    for name in ("scores/perplexity.json", "scores/random.json"):
        assert read_json(f"{W}/{name}") == read_json(tmp_path / "W" / name)
    assert {n for n in there if n.startswith("plots/")} == {
        f"plots/{file.name}" for file in (tmp_path / "W" / "plots").iterdir()
    }
    assert there["report.html"].startswith(b"<!DOCTYPE html>")
    assert not any("jprune_unfinished" in name for name in there)
    assert str(load(f"{W}/checkpoints/pruned")) == str(load(tmp_path / "W" / "checkpoints/pruned"))

    lines = dry_run({**keys, "job": "depth", "eval": (keys["eval"],)}, W)
    assert all("cached" in line for line in lines[: len(STAGES)])


def test_a_changed_object_is_noticed(gcs, keys, monkeypatch):
    config = {**keys, "job": "depth", "eval": (keys["eval"],), "curve_windows": 0}
    run_config(config, W, name="x")
    with monkeypatch.context() as patch:  # a model that is known is not read once more
        patch.setattr(source, "checkpoint_sha256", lambda folder: pytest.fail("hashed again"))
        assert ran(run_config(config, W, name="x")) == []
    gcs.put("W/scores/perplexity.json", b"{}")
    as_path(f"{W}/model/config.json").unlink()
    assert {"score", "export"} <= set(ran(run_config(config, W, name="x")))
    gcs.put("data/text.txt", gcs.objects["data/text.txt"] + b" the end.")
    assert "calibration" in ran(run_config(config, W, name="x"))
    weights = bytearray(gcs.objects["models/tiny/model.safetensors"])
    weights[-1] ^= 1
    gcs.put("models/tiny/model.safetensors", bytes(weights))
    with pytest.raises(InputError, match="belongs to another model"):
        run_config(config, W, name="x")
