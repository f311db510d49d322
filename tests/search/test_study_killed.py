"""What workers that are killed leave behind, and what the others make of it."""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from jprune.search import SearchSettings, run_study
from tests.search.landscapes import drop_space, objective, removal_loss

SCRIPT = textwrap.dedent(
    """
    import json, os, signal, sys, time
    from jprune.core.errors import Interrupted
    from jprune.search import SearchSettings, run_study
    from tests.search.landscapes import drop_space, objective, removal_loss

    journal, log, sampler, trials, seconds = sys.argv[1:]

    def stop(number, frame):
        raise Interrupted("stopped")

    signal.signal(signal.SIGTERM, stop)

    def evaluate(candidate, name, items):
        line = {"pid": os.getpid(), "removed": [u.layer for u in candidate.removed],
                "items": items.tolist()}
        with open(log, "a") as file:
            file.write(json.dumps(line) + "\\n")
        time.sleep(float(seconds))
        return removal_loss(candidate, name, items)

    settings = SearchSettings(sampler, int(trials), population=4, startup=4)
    result = run_study(drop_space(), [objective()], evaluate, settings, journal)
    print(json.dumps(result.to_json()))
    """
)


class Run:
    """Workers on one journal, and what they evaluate."""

    def __init__(self, folder, sampler, trials=12):
        self.folder, self.sampler, self.trials = folder, sampler, trials
        self.log = folder / "log"

    def start(self, seconds):
        paths = [str(self.folder / "journal"), str(self.log)]
        command = [sys.executable, "-c", SCRIPT, *paths, self.sampler, str(self.trials)]
        env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen([*command, str(seconds)], env=env, **pipes)

    def evaluated(self, pid=None):
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        rows = [json.loads(line) for line in lines]
        rows = [row for row in rows if row["removed"] and pid in (None, row["pid"])]
        return [(tuple(row["removed"]), tuple(row["items"])) for row in rows]

    def wait_for(self, count, pid=None, seconds=60):
        end = time.monotonic() + seconds
        while len(self.evaluated(pid)) < count:
            assert time.monotonic() < end
            time.sleep(0.02)

    def through(self):
        """The same search, undisturbed."""
        settings = SearchSettings(self.sampler, self.trials, population=4, startup=4)
        return run_study(drop_space(), [objective()], removal_loss, settings).to_json()


def finish(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return json.loads(out)


def kill(process, number=signal.SIGKILL):
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode and not out
    return err


def told(result):
    rows = [row for row in result["history"] if row["state"] != "lost"]
    return [(row["state"], row["candidate"], row["values"]) for row in rows]


@pytest.mark.parametrize("sampler", ["random", "tpe", "evolution"])
def test_sigkill_loses_the_running_trial_alone(tmp_path, sampler):
    run = Run(tmp_path, sampler)
    for _ in range(2):
        process = run.start(0.2)
        run.wait_for(5, process.pid)  # it is in the middle of its fifth evaluation
        kill(process)
    result = finish(run.start(0))
    states = [row["state"] for row in result["history"]]
    assert len(states) == 12 + 2 and states.count("lost") == 2
    # As if nothing had happened: the same candidates in the same order, with the same values.
    assert told(result) == told(run.through())
    assert len(result["curve"]) == 12
    again = run.evaluated()
    lost = [row for row in result["history"] if row["state"] == "lost"]
    for row in lost:
        assert row["error"] == "its worker died"
    twice = {removed for removed, items in again if again.count((removed, items)) > 1}
    assert twice <= {tuple(u["layer"] for u in row["candidate"]["removed"]) for row in lost}


def test_sigterm_gives_the_running_trial_up(tmp_path):
    run = Run(tmp_path, "random")
    process = run.start(0.3)
    run.wait_for(4, process.pid)
    assert "Interrupted" in kill(process, signal.SIGTERM)
    result = finish(run.start(0))
    (lost,) = [row for row in result["history"] if row["state"] == "lost"]
    assert lost["error"] == "stopped by Interrupted"
    assert told(result) == told(run.through())


def test_of_two_workers_one_is_killed(tmp_path):
    run = Run(tmp_path, "random", trials=14)
    one, other = run.start(0.3), run.start(0.3)
    for worker in (one, other):  # a trial takes three evaluations at most, so each has ended one
        run.wait_for(4, worker.pid)
    kill(one)
    result = finish(other)
    rows = result["history"]
    counted = [row for row in rows if row["state"] != "lost"]
    (lost,) = [row for row in rows if row["state"] == "lost"]
    assert len(counted) == len(result["curve"]) == 14
    assert {row["state"] for row in counted} == {"complete", "pruned"}
    assert lost["worker"].endswith(f":{one.pid}") and lost["error"] == "its worker died"
    # Both did something, and each candidate was evaluated by one of them, but for the lost one.
    assert {row["worker"].rpartition(":")[2] for row in counted} == {str(one.pid), str(other.pid)}
    all_items = run.evaluated()
    twice = {removed for removed, items in all_items if all_items.count((removed, items)) > 1}
    assert twice <= {tuple(unit["layer"] for unit in lost["candidate"]["removed"])}
    assert len({str(row["candidate"]) for row in counted}) == 14


def test_workers_that_are_killed_at_any_moment_spoil_nothing(tmp_path):
    run = Run(tmp_path, "evolution", trials=30)
    for number in range(4):
        process = run.start(0.01)
        run.wait_for(4, process.pid)
        time.sleep(0.013 * number)
        kill(process)
    result = finish(run.start(0))
    assert len(result["curve"]) == 30
    assert told(result) == told(run.through())
