"""A run that is killed while it retrains goes on to the same losses and the same model."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from jprune.core.files import read_json, sha256_file
from jprune.pipeline.job import run_config
from tests.pipeline.test_retraining import retrain

# Ends itself: with a signal before a step, or by SIGKILL while a checkpoint or what was trained
# is being written.
SCRIPT = textwrap.dedent(
    """
    import json, os, signal, sys
    from jprune.core.errors import Interrupted
    from jprune.pipeline import retraining
    from jprune.pipeline.job import run_config
    from tests.retrain.short_run import kill_while_saving, send_at

    config, workdir, when, at = json.loads(sys.argv[1]), *sys.argv[2:]
    if when == "saving":
        kill_while_saving(int(at))
    elif when == "storing":
        store = retraining.store_adapters

        def killed(*args):
            store(*args)
            os.kill(os.getpid(), signal.SIGKILL)

        retraining.store_adapters = killed
    else:
        send_at(getattr(signal, when), int(at))
    try:
        run_config(config, workdir)
    except Interrupted:
        sys.exit(75)
    """
)


def run_script(config, workdir, when, at):
    command = [sys.executable, "-c", SCRIPT, json.dumps(config), str(workdir), when, str(at)]
    path = os.pathsep.join(filter(None, [os.getcwd(), *sys.path]))
    environment = os.environ | {"PYTHONPATH": path, "JPRUNE_TYPECHECK": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    return done.returncode, done.stderr


@pytest.fixture(scope="module")
def values(config, text):
    """The config of a run with six steps and a checkpoint after every second."""
    return config(curve_windows=0, retrain=retrain(text, "lora", train={"steps": 6}))


@pytest.fixture(scope="module")
def whole(tmp_path_factory, values):
    """A finished workdir and its run.json."""
    workdir = tmp_path_factory.mktemp("whole") / "W"
    return workdir, run_config(values, workdir)


@pytest.mark.parametrize(
    ("when", "at", "status", "left"),
    [
        ("SIGKILL", 5, -signal.SIGKILL, [4, 5]),  # between two checkpoints
        ("saving", 4, -signal.SIGKILL, [2, 3, 4, 5]),
        ("storing", 0, -signal.SIGKILL, []),
        ("SIGTERM", 2, 75, [3, 4, 5]),
    ],
)
def test_the_same_in_the_end(tmp_path, values, whole, steps_run, when, at, status, left):
    returned, errors = run_script(values, tmp_path / "W", when, at)
    assert returned == status, errors
    assert not (tmp_path / "W" / "model").exists()
    if when == "SIGTERM":
        stages = read_json(tmp_path / "W" / "run.json")["stages"]
        assert {s["name"]: s["status"] for s in stages}["retrain"] == "interrupted"
    record = run_config(values, tmp_path / "W")
    assert steps_run == left
    expected, workdir = whole[1], whole[0]
    assert record["figures"] == expected["figures"]
    for name in ("losses.jsonl", "recipe.json", "adapter/adapter_model.safetensors"):
        assert (tmp_path / "W" / name).read_bytes() == (workdir / name).read_bytes(), name
    name = "model/model.safetensors"
    assert sha256_file(tmp_path / "W" / name) == sha256_file(workdir / name)
    names = [sorted(p.name for p in (w / "arrays").iterdir()) for w in (tmp_path / "W", workdir)]
    assert names[0] == names[1]
