"""A command stopped while it writes: the old output stays, and the next call cleans up."""

import json
import signal
import subprocess
import sys
import time

import pytest

SLOW_EXPORT = """
import sys, time
from jprune.checkpoints import hf_export
from jprune.cli.main import main
write = hf_export.write_json
def slow(path, value):
    write(path, value)
    print("writing", flush=True)
    time.sleep(60)
hf_export.write_json = slow
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_while_writing(jprune, model, tmp_path, number):
    out = tmp_path / "p"
    assert jprune("prune", f"--model={model}", "--blocks=0", f"--out={out}")[0] == 0
    before = {p.name: p.read_bytes() for p in out.iterdir()}
    argv = ["prune", f"--model={model}", "--blocks=1", f"--out={out}"]
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_EXPORT, *argv], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "writing\n"
    time.sleep(0.1)
    process.send_signal(number)
    assert process.wait() == (75 if number == signal.SIGTERM else -number)
    assert {p.name: p.read_bytes() for p in out.iterdir()} == before
    if number == signal.SIGTERM:
        assert [p.name for p in tmp_path.iterdir()] == ["p"]
    assert jprune(*argv)[0] == 0
    assert json.loads((out / "recipe.json").read_text())["steps"][0]["args"] == {"blocks": [1]}
    assert [p.name for p in tmp_path.iterdir()] == ["p"]
