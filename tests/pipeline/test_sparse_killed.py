"""A pruning pass that is killed goes on from its last finished block, to the same result."""

import json
import os
import subprocess
import sys
import textwrap
import time

import pytest

from jprune.core.files import read_json
from jprune.pipeline import sparse_pass
from jprune.pipeline.job import run_config

# Slow enough to be killed between two blocks.
SCRIPT = textwrap.dedent(
    """
    import json, sys, time
    from jprune.pipeline import sparse_pass
    from jprune.pipeline.job import run_config

    add = sparse_pass.Progress.add

    def slowly(self, entry):
        add(self, entry)
        time.sleep(0.5)

    sparse_pass.Progress.add = slowly
    run_config(json.loads(sys.argv[1]), sys.argv[2])
    """
)


def killed_after(blocks, config, workdir):
    """Runs the config in a process of its own, and kills it when so many blocks are done."""
    command = [sys.executable, "-c", SCRIPT, json.dumps(config), str(workdir)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, env=env)
    file = workdir / "arrays" / "progress.json"
    end = time.monotonic() + 60
    while not (file.exists() and len(read_json(file)["blocks"]) >= blocks):
        assert process.poll() is None and time.monotonic() < end, process.stderr.read().decode()
        time.sleep(0.02)
    process.kill()
    process.communicate()
    return read_json(file)["blocks"]


@pytest.mark.parametrize("criterion", ["wanda", "sparsegpt", "width"])
def test_sigkill_between_two_blocks(tmp_path, sparse_config, criterion, monkeypatch):
    config = sparse_config(criterion=criterion, compare=(), curve_windows=0)
    whole = run_config(config, tmp_path / "whole")
    recipe = read_json(tmp_path / "whole" / "recipe.json")
    done = killed_after(2, config, tmp_path / "W")
    assert 2 <= len(done) < 4
    added = []
    add = sparse_pass.Progress.add
    monkeypatch.setattr(
        sparse_pass.Progress, "add", lambda self, entry: (added.append(entry), add(self, entry))
    )
    record = run_config(config, tmp_path / "W")
    assert len(added) == 4 - len(done)
    assert read_json(tmp_path / "W" / "recipe.json")["steps"] == recipe["steps"]
    assert record["figures"] == whole["figures"] and record["sparsity"] == whole["sparsity"]
    names = {path.name for path in (tmp_path / "W" / "arrays").iterdir()}
    assert names == {path.name for path in (tmp_path / "whole" / "arrays").iterdir()}


def test_a_pass_under_another_key_begins_anew(tmp_path, sparse_config, monkeypatch):
    config = sparse_config(compare=(), curve_windows=0)
    killed_after(2, config, tmp_path)
    added = []
    add = sparse_pass.Progress.add
    monkeypatch.setattr(
        sparse_pass.Progress, "add", lambda self, entry: (added.append(entry), add(self, entry))
    )
    run_config(config | {"sparsity": 0.25}, tmp_path)
    assert len(added) == 4
    files = {path.stem for path in (tmp_path / "arrays").glob("*.safetensors")}
    assert files == set(added)  # those of the first pass are gone


def test_a_damaged_block_is_pruned_again(tmp_path, sparse_config, caplog):
    config = sparse_config(compare=(), curve_windows=0)
    whole = run_config(config, tmp_path)
    first, second, *_ = read_json(tmp_path / "arrays" / "progress.json")["blocks"]
    (tmp_path / "arrays" / f"{second}.safetensors").write_bytes(b"nothing")
    again = run_config(config, tmp_path)
    assert "block 1 is pruned again" in caplog.text
    assert again["figures"] == whole["figures"]
    assert (tmp_path / "arrays" / f"{first}.safetensors").exists()


def test_a_progress_file_that_cannot_be_read(tmp_path, sparse_config):
    config = sparse_config(compare=(), curve_windows=0)
    whole = run_config(config, tmp_path)
    (tmp_path / "arrays" / "progress.json").write_text("{")
    assert run_config(config, tmp_path)["sparsity"] == whole["sparsity"]


def test_another_result_under_the_same_keys_reaches_all_stages(tmp_path, sparse_config):
    """A mesh is no key, but it may change the last bits, and with them the files' names."""
    config = sparse_config(criterion="sparsegpt", compare=(), curve_windows=0)
    run_config(config, tmp_path)
    for file in (tmp_path / "arrays").glob("*.safetensors"):
        file.unlink()
    record = run_config(config | {"mesh": "data:2,fsdp:2,tensor:2"}, tmp_path)
    ran = [stage["name"] for stage in record["stages"] if stage["status"] == "done"]
    blocks = read_json(tmp_path / "recipe.json")["steps"][0]["args"]["blocks"]
    assert {p.stem for p in (tmp_path / "arrays").glob("*.safetensors")} == set(blocks)
    if len(ran) > 1:  # the bits did differ
        assert ran == ["prune", "recipe", "evaluate-after", "export", "checkpoint", "report"]
