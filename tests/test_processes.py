"""Two real processes with four simulated devices each: one process's figures, one set of files."""

import json
import pathlib
import signal
import time

import jax
import numpy as np
import pytest

from jprune.checkpoints import export_huggingface, load
from tests.several import finish, start
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
    return finish(start(PROGRAM, script, processes=processes, devices=devices))


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
        for key in ("remove", "curve_seeds"):
            config.pop(key)
        config |= {"compare": "", "num_windows": 10}
        keys = [f"--config.{key}={value}" for key, value in config.items()]
        keys += [option.replace("--mesh", "--config.mesh") for option in mesh]
        workdir = f"--workdir={out / 'sparse'}"
        sparse = ["run", "--config=dlp:sparsegpt_dlp", workdir, *keys]
        lines = [
            ["score", "--criterion=taylor", f"--out={out / 'taylor.json'}", data, *common],
            ["eval", f"--out={out / 'eval.json'}", data, *common],
            ["prune", "--attention=1", f"--out={out / 'orbax'}", *common],
            ["prune", "--blocks=0", f"--out={root / 'notes'}", *common],
            run,
            run,
            sparse,
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
    expected = [0, 0, 0, 2, 0, 0, 0]
    assert statuses(results["one"][0][0]) == expected, results["one"][0][1]
    for out, err in results["two"]:
        assert statuses(out) == expected, err


def test_only_the_first_process_speaks(both):
    (first, first_err), (second, second_err) = both[1]["two"]
    assert "block 2" in first and "wrote" in first_err
    assert "block 2" not in second and "wrote" not in second_err
    refusal = "holds files that jprune did not write"
    assert refusal in first_err and refusal in second_err


def test_the_second_run_is_cached(both):
    root, results = both
    _, err = results["two"][0]
    stages = json.loads((root / "two" / "run" / "run.json").read_text())["stages"]
    assert err.count(": cached") == len(stages) > 5


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


@pytest.mark.parametrize(("command", "signalled"), [("score --criterion=greedy", 1), ("eval", 0)])
def test_sigterm_to_one_process_stops_both(both, tmp_path, command, signalled):
    root, _ = both
    np.savez(tmp_path / "many.npz", ids=windows(100_000, 16, vocab=96))
    script = tmp_path / "commands"
    out = tmp_path / "out.json"
    script.write_text(
        f"{command} --model={root / 'model'} --data={tmp_path / 'many.npz'}:ids --out={out}"
    )
    running = start(PROGRAM, script)
    for process in running:
        while "of 2, 2 of 4 devices" not in process.stderr.readline():
            assert process.poll() is None
    time.sleep(2)  # it loads, compiles or computes
    running[signalled].send_signal(signal.SIGTERM)
    printed = finish(running, timeout=60)
    assert [process.returncode for process in running] == [75, 75], printed
    for _, err in printed:
        assert "Traceback" not in err and "run the same command again to continue" in err
    assert not out.exists()


def test_no_room_on_one_process_is_an_error_on_all(both, tmp_path):
    root, _ = both
    full = "\n".join(
        [
            "import os",
            "from jprune.checkpoints import placement",
            "free = 10 if os.environ['JAX_PROCESS_ID'] == '1' else None",
            "placement.free_bytes = lambda device: free",
        ]
    )
    script = tmp_path / "commands"
    data = f"--data={root / 'ids.npz'}:ids --mesh=fsdp:4"
    models = [root / "model", root / "two" / "orbax"]
    script.write_text("\n".join(f"eval --model={model} {data}" for model in models))
    for out, err in finish(start(full + PROGRAM, script)):
        # Both know at once: neither has to be ended by the other.
        assert statuses(out) == [2, 2] and "ended with process" not in err, err
        assert "no room for model" in err and "no room for orbax" in err


def test_one_set_of_masks(both):
    root, _ = both
    one, two = (json.loads((root / n / "sparse" / "run.json").read_text()) for n in ("one", "two"))
    assert two["sparsity"]["zeros"] == one["sparsity"]["zeros"]
    found, expected = (run["figures"]["after"]["perplexity"][0]["ppl"] for run in (two, one))
    assert found == pytest.approx(expected, rel=1e-4)
    recipe = json.loads((root / "two" / "sparse" / "recipe.json").read_text())
    digests = recipe["steps"][0]["args"]["blocks"]
    files = {path.stem for path in (root / "two" / "sparse" / "arrays").glob("*.safetensors")}
    assert files == set(digests)
