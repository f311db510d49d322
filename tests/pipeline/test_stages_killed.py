"""What a dying process leaves behind, and what the next one makes of it."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from jprune.core.errors import InputError, Interrupted
from jprune.core.files import read_json, write_text
from jprune.pipeline.stages import Stage, plan, record_path, run_stages
from tests.pipeline.runs import job

SCRIPT = textwrap.dedent(
    """
    import pathlib, sys, time
    from jprune.core.files import write_json
    from jprune.pipeline.stages import Stage, run_stages

    root, wait = pathlib.Path(sys.argv[1]), float(sys.argv[2])

    def stage(name, need=None):
        def run(values):
            with open(root / "log", "a") as file:
                file.write(name)
            time.sleep(wait)
            write_json(root / f"{name}.json", name)
            time.sleep(wait)
            return (values[need] if need else "") + name
        return Stage(name, {}, run, (need,) if need else (), (f"{name}.json",))

    print(run_stages(root, [stage("a"), stage("b", "a"), stage("c", "b")])[-1].value)
    """
)


def start(root, wait):
    command = [sys.executable, "-c", SCRIPT, str(root), str(wait)]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_sigkill_in_any_stage_loses_only_that_stage(tmp_path, name):
    done = {"a": "", "b": "a", "c": "ab"}[name]
    process = start(tmp_path, 0.3)
    wait_for((tmp_path / f"{name}.json").exists)  # the output is there, its record is not
    process.kill()
    process.wait()
    out, _ = start(tmp_path, 0).communicate()
    assert out.strip() == b"abc"
    assert (tmp_path / "log").read_text() == done + name + "abc"[len(done) :]


def test_sigterm_interrupts_and_keeps_what_is_done(tmp_path):
    process = start(tmp_path, 0.3)
    wait_for((tmp_path / "b.json").exists)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert b"Interrupted" in err
    assert read_json(record_path(tmp_path, "a"))["status"] == "done"
    out, _ = start(tmp_path, 0).communicate()
    assert out.strip() == b"abc"
    assert (tmp_path / "log").read_text() == "abbc"


def test_sigterm_that_a_stage_swallows_still_stops_the_job(tmp_path):
    log = []
    before = signal.getsignal(signal.SIGTERM)

    def swallow(values):
        log.append("a")
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        except Interrupted:
            pass

    stages = [Stage("a", {}, swallow), Stage("b", {}, lambda values: log.append("b"))]
    with pytest.raises(Interrupted, match="run the same command again"):
        run_stages(tmp_path, stages)
    assert log == ["a"]
    assert plan(tmp_path, stages)[0].status == "cached"
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_killed_processes_left_half_written_is_removed(tmp_path):
    run_stages(tmp_path, job(tmp_path, []))
    write_text(tmp_path / "stages" / ".a.json.tmp-host-1-abc", "{")
    write_text(tmp_path / ".model.tmp-host-1-abc" / "shard", "...")
    run_stages(tmp_path, job(tmp_path, []))
    assert [p.name for p in tmp_path.rglob(".*")] == [".lock"]


def test_two_processes_cannot_share_a_workdir(tmp_path):
    process = start(tmp_path, 5)
    try:
        wait_for((tmp_path / "log").exists)
        with pytest.raises(InputError, match=f"in use by process {process.pid}: wait"):
            run_stages(tmp_path, [])
    finally:
        process.kill()
        process.wait()
    run_stages(tmp_path, job(tmp_path, []))  # a dead process holds nothing
