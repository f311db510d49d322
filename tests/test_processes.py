"""Two real processes with four simulated devices each: one process's figures, one set of files."""

import json
import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from jprune.checkpoints import export_huggingface, load
from tests.tiny import tiny, windows

PROGRAM = """
import sys
from jprune.cli.main import main
for line in open(sys.argv[1]):
    print("status", main(line.split()), flush=True)
"""


def call(commands, tmp_path, processes=1, devices=8):
    """Runs `jprune` commands, all in each process; gives what every process printed."""
    script = tmp_path / "commands"
    script.write_text("\n".join(commands))
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    env = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    if processes > 1:
        env |= {
            "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
            "JAX_NUM_PROCESSES": str(processes),
        }
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(script)],
            env=env | {"JAX_PROCESS_ID": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(processes)
    ]
    return [process.communicate(timeout=300) for process in running]


def statuses(printed):
    return [int(line.split()[1]) for line in printed.splitlines() if line.startswith("status")]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """The folders of one process without a mesh and of two with one, and what those printed."""
    root = tmp_path_factory.mktemp("processes")
    export_huggingface(root / "model", tiny(3, vocab_size=96))
    np.savez(root / "ids.npz", ids=windows(10, 16, vocab=96))
    (root / "notes").mkdir()
    (root / "notes" / "own.txt").write_text("mine")

    def commands(out, *mesh):
        common = [f"--model={root / 'model'}", *mesh]
        data = f"--data={root / 'ids.npz'}:ids"
        config = {
            "model": root / "model",
            "calibration": f"{root / 'ids.npz'}:ids",
            "eval": f"{root / 'ids.npz'}:ids",
            "remove": 1,
            "curve_seeds": 1,
        }
        keys = [f"--config.{key}={value}" for key, value in config.items()]
        run = ["run", "--config=shortened_llama:ppl", f"--workdir={out / 'run'}", *keys]
        lines = [
            ["score", "--criterion=taylor", f"--out={out / 'taylor.json'}", data, *common],
            ["eval", f"--out={out / 'eval.json'}", data, *common],
            ["prune", "--attention=1", f"--out={out / 'orbax'}", *common],
            ["prune", "--blocks=0", f"--out={root / 'notes'}", *common],
            run,
            run,
        ]
        return [" ".join(map(str, line)) for line in lines]

    results = {}
    for name, processes, mesh in (("one", 1, ()), ("two", 2, ("--mesh=fsdp:4,tensor:2",))):
        (root / name).mkdir()
        results[name] = call(commands(root / name, *mesh), root, processes, 8 // processes)
    return root, results


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_all_processes_end_alike(both):
    root, results = both
    expected = [0, 0, 0, 2, 0, 0]
    assert statuses(results["one"][0][0]) == expected, results["one"][0][1]
    for out, err in results["two"]:
        # The others print nothing of their own: their lines come from the test's program.
        assert statuses(out) in (expected, []), err
    assert statuses(results["two"][0][0]) == expected


def test_only_the_first_process_speaks(both):
    (first, first_err), (second, second_err) = both[1]["two"]
    assert "block 2" in first and "wrote" in first_err
    assert "block 2" not in second and "wrote" not in second_err
    refusal = "holds files that jprune did not write"
    assert refusal in first_err and refusal in second_err


def test_the_second_run_is_cached(both):
    _, err = both[1]["two"][0]
    assert err.count(": cached") == err.count(": done in") > 5


def test_the_same_figures(both):
    root, _ = both
    one, two = (json.loads((root / name / "taylor.json").read_text()) for name in ("one", "two"))
    np.testing.assert_allclose(two["scores"], one["scores"], rtol=1e-5)
    assert two["device"]["count"] == 8
    one, two = (json.loads((root / name / "eval.json").read_text()) for name in ("one", "two"))
    assert two["perplexity"][0]["ppl"] == pytest.approx(one["perplexity"][0]["ppl"], rel=1e-5)
    one, two = (
        json.loads((root / name / "run" / "run.json").read_text()) for name in ("one", "two")
    )
    assert two["removed"] == one["removed"]
    for when in ("before", "after"):
        found, expected = (run["figures"][when]["perplexity"][0]["ppl"] for run in (two, one))
        assert found == pytest.approx(expected, rel=1e-5)


def test_one_set_of_files(both):
    root, _ = both
    names = {name: files(root / name) for name in ("one", "two")}
    for name, found in names.items():
        # How Orbax lays out its arrays depends on how many processes write them.
        names[name] = [path for path in found if "arrays" not in pathlib.Path(path).parts]
    assert names["two"] == names["one"]
    assert not [path for path in names["two"] if ".tmp-" in path or ".old-" in path]
    model = "run/model/model.safetensors"
    assert (root / "two" / model).read_bytes() == (root / "one" / model).read_bytes()


def test_checkpoints_of_two_processes_are_whole(both):
    root, _ = both
    for folder in ("orbax", "run/checkpoints/pruned"):
        one, two = (load(root / name / folder) for name in ("one", "two"))
        for left, right in zip(one.blocks, two.blocks, strict=True):
            assert (left.attn is None) == (right.attn is None)
        assert one.num_layers == two.num_layers
        np.testing.assert_array_equal(one.embed, two.embed)
        np.testing.assert_array_equal(one.blocks[1].mlp.up.kernel, two.blocks[1].mlp.up.kernel)


def test_alone_without_being_told_of_others(tmp_path):
    command = "score --criterion=random --model=nowhere --distributed="
    commands = [f"{command}on", f"{command}maybe"]
    ((out, err),) = call(commands, tmp_path)
    assert statuses(out) == [2, 2]
    assert "cannot join the other processes" in err and "JAX_COORDINATOR_ADDRESS=HOST:PORT" in err
    assert "unknown value of --distributed 'maybe'" in err


def test_two_processes_write_one_checkpoint_on_an_object_store(gcs, tmp_path):
    export_huggingface("gs://bucket/model", tiny(3, vocab_size=96))
    command = "export --model=gs://bucket/model --to=orbax --out=gs://bucket/O --mesh=tensor:2"
    printed = call([command], tmp_path, processes=2, devices=1)
    assert [statuses(out) for out, _ in printed] == [[0], [0]], printed
    assert {name.split("/")[2] for name in gcs.objects if name.startswith("O/arrays/ocdbt")} == {
        "ocdbt.process_0",
        "ocdbt.process_1",
    }
    jax.tree.map(np.testing.assert_array_equal, load("gs://bucket/O"), load("gs://bucket/model"))
