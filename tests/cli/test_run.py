"""`jprune run` and `jprune demo`."""

import os
import subprocess
import sys

import pytest

from jprune.cli.run import print_result
from jprune.core.files import read_json
from tests.report import sparse_runs
from tests.report.conftest import write_files

STAGES = (
    "model", "calibration", "score", "baselines", "recipe", "evaluate-before", "evaluate-after",
    "curve", "export", "checkpoint", "report",
)  # fmt: skip


@pytest.fixture
def arguments(model, text, tmp_path):
    """The arguments of a small run in tmp_path/W."""
    return [
        "--config=shortened_llama:ppl",
        f"--config.model={model}",
        f"--config.calibration={text}",
        f"--config.eval={text}",
        "--config.sample=stream",
        "--config.remove=1",
        "--config.num_windows=3",
        "--config.window_length=16",
        "--config.eval_windows=5",
        "--config.curve_windows=2",
        f"--workdir={tmp_path / 'W'}",
    ]


def test_run_prints_what_came_out(jprune, arguments, tmp_path, text):
    status, out, err = jprune("run", *arguments)
    assert status == 0, err
    record = read_json(tmp_path / "W" / "run.json")
    (gone,) = record["removed"]
    assert f"removed 1 of 4 blocks: {gone['layer']}" in out
    assert "5 windows of 64 tokens" in out and str(text) in out
    for when in ("before", "after"):
        assert f"{record['figures'][when]['perplexity'][0]['ppl']:.4g}" in out
    assert f"{record['model']['parameters']['after']:,}" in out
    assert str(tmp_path / "W" / "report.html") in err
    assert "AutoModelForCausalLM.from_pretrained" in err
    assert (tmp_path / "W" / "report.html").exists()
    assert read_json(tmp_path / "W" / "config.json")["name"] == "shortened_llama:ppl"

    status, again, err = jprune("run", *arguments)
    assert (status, again) == (0, out)
    assert err.count(": cached") == len(STAGES)


def test_what_came_out_of_a_sparse_run(tmp_path, capsys):
    write_files(tmp_path / "W", sparse_runs.sparse_files())
    print_result(str(tmp_path / "W"))
    out = capsys.readouterr().out
    assert out.startswith(
        "sparsity 70% by wanda, dlp allocation, unstructured; achieved 69.96%\n\n"
    )
    assert "removed" not in out and "180.5" in out


def test_dry_run_writes_nothing(jprune, arguments, tmp_path):
    status, out, err = jprune("run", *arguments, "--dry_run")
    assert status == 0, err
    assert tuple(line.split()[0] for line in out.splitlines()[: len(STAGES)]) == STAGES
    assert "parameters: " in out and "memory: " in out and "disk: " in out
    assert not (tmp_path / "W").exists()


def test_dry_run_says_which_key_made_a_stage_stale(jprune, arguments):
    assert jprune("run", *arguments)[0] == 0
    _, out, _ = jprune("run", *arguments, "--config.eval_windows=3", "--dry_run")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert lines["evaluate-before"] == "to run: eval_windows was 5, is 3"
    assert lines["report"] == "to run: evaluate-before changed; evaluate-after changed"
    assert lines["score"] == lines["export"] == lines["curve"] == "cached"


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--config.evl_windows=3"], "unknown config key 'evl_windows'; did you mean 'eval_w"),
        (["--config.criterion=taylr"], "unknown criterion 'taylr'; did you mean 'taylor'"),
        (["--config.eval_windows=many"], "takes an integer, not 'many'"),
        (["--config.remove=4"], "removing 4 of 4 units would leave no model"),
        (["--until=score"], "unknown flag --until"),
        (["--mesh=data:2"], "unknown flag --mesh of jprune run; did you mean --config.mesh=...?"),
        (["--config=demo_pretrain", "--learning_rat=1"], "mean --config.train.learning_rate=...?"),
        (["--config=shortened_lama"], "did you mean 'shortened_llama'"),
        (["--config=shortened_llama:tailor"], "did you mean 'taylor'"),
        (["--workdir="], "--workdir=... is missing"),
    ],
)  # fmt: skip
def test_errors(refused, arguments, extra, message):
    assert message in refused("run", *arguments, *extra)


def test_a_file_where_the_workdir_should_be(refused, arguments, tmp_path):
    (tmp_path / "file").write_text("")
    message = refused("run", *arguments, f"--workdir={tmp_path / 'file'}")
    assert message.startswith(f"cannot make the workdir {tmp_path / 'file'}")


def test_sigterm_ends_with_status_75(arguments, tmp_path):
    import time

    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-m", "jprune", "run", *arguments]
    process = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 120
    while not (tmp_path / "W" / "stages" / "score.json").exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.002)
    process.terminate()
    _, err = process.communicate()
    assert process.returncode == 75, err
    assert "Traceback" not in err and "run the same command again" in err
    assert read_json(tmp_path / "W" / "stages" / "model.json")["status"] == "done"


def test_demo_runs_until_a_stage(jprune, tmp_path):
    status, out, err = jprune("demo", f"--workdir={tmp_path / 'D'}", "--until=calibration")
    assert status == 0, err
    assert out == ""
    assert "stopped before score" in err
    statuses = {s["name"]: s["status"] for s in read_json(tmp_path / "D" / "run.json")["stages"]}
    assert statuses["calibration"] == "done" and statuses["score"] == "pending"


def test_demo_knows_its_stages(refused, tmp_path):
    message = refused("demo", f"--workdir={tmp_path / 'D'}", "--until=scor")
    assert "unknown stage 'scor'; did you mean 'score'" in message
