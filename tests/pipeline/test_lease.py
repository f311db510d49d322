"""One process at a time in a workdir on an object store."""

import concurrent.futures
import json
import os
import subprocess
import sys
import threading

import pytest

from jprune.core.errors import InputError
from jprune.core.files import as_path, write_json
from jprune.pipeline import lease as leases
from jprune.pipeline.lease import LeaseLost, lease
from jprune.pipeline.lock import workdir_lock
from jprune.pipeline.stages import Stage, plan, run_stages
from tests.pipeline.runs import job

W = "gs://bucket/W"


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(leases, "RENEWED_EVERY", 0.1)
    monkeypatch.setattr(leases, "WATCHED_FOR", 1.0)


def forge(gcs, number=1, **changes):
    """A lease of somebody else."""
    owner = leases._owner() | changes
    gcs.put(f"W/.lease/{number:06d}.json", json.dumps(owner).encode())


def dead_pid():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def held_by(gcs):
    last = max(name for name in gcs.objects if name.startswith("W/.lease/"))
    return json.loads(gcs.objects[last])


def test_two_processes_cannot_share_a_workdir(gcs):
    with workdir_lock(W) as check:
        check()
        with pytest.raises(InputError, match=f"in use by process {os.getpid()} on .*: wait"):
            run_stages(W, [])
    run_stages(as_path(W), job(as_path(W), []))  # released
    assert held_by(gcs)["released"]
    assert len([name for name in gcs.objects if ".lease" in name]) == 1


def test_of_many_at_once_one_wins(gcs):
    all_tried = threading.Barrier(6)

    def hold(_):
        try:
            with lease(as_path(W)):
                all_tried.wait(60)
            return True
        except InputError as error:
            assert "in use" in str(error)
            all_tried.wait(60)
            return False

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        assert sum(pool.map(hold, range(6))) == 1


def test_a_killed_process_of_this_machine_holds_nothing(gcs, monkeypatch):
    forge(gcs, pid=dead_pid())
    monkeypatch.setattr(leases, "WATCHED_FOR", 1e9)  # nobody waits for it
    with lease(as_path(W)):
        assert held_by(gcs)["pid"] == os.getpid()
    forge(gcs, 7, started="1")  # our id, of a process that started at another time
    with lease(as_path(W)):
        assert "W/.lease/000008.json" in gcs.objects


def test_a_process_elsewhere_is_dead_when_it_renews_nothing(gcs, quick):
    forge(gcs, machine="another", host="vm-7", pid=1)
    with lease(as_path(W)) as check:
        check()
        assert held_by(gcs)["pid"] == os.getpid()


def test_a_process_elsewhere_lives_while_it_renews(gcs, quick, monkeypatch):
    monkeypatch.setattr(leases, "WATCHED_FOR", 60.0)  # it is over with the first renewal
    monkeypatch.setattr(leases.aside, "machine", lambda: "elsewhere")
    with lease(as_path(W)):
        monkeypatch.setattr(leases.aside, "machine", lambda: "here")
        with pytest.raises(InputError, match="in use by process"), lease(as_path(W)):
            pytest.fail("must not start")


def test_an_output_folder_may_be_empty(gcs):
    stage = Stage("a", {}, lambda values: None, (), ("plots",))  # no such thing on a store
    assert [run_stages(W, [stage])[0].status for _ in range(2)] == ["done", "cached"]


def test_a_lost_lease_stops_the_run_before_it_records_anything(gcs):
    root = as_path(W)

    def run(values):
        write_json(root / "a.json", 1)
        forge(gcs, 2, machine="another", host="vm-7", pid=1)

    seen = []
    with pytest.raises(LeaseLost, match="taken over by process 1 on vm-7"):
        run_stages(
            W, [Stage("a", {}, run, (), ("a.json",))], after=lambda s: seen.append(s[0].status)
        )
    assert plan(W, [Stage("a", {}, run, (), ("a.json",))])[0].status == "pending"
    assert seen[-1] == "running"  # nothing is said in the other's run.json
    assert held_by(gcs)["pid"] == 1  # the other's lease is left alone
