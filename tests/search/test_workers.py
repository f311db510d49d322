"""Which workers are dead, and signs of life."""

import os
import subprocess
import sys
import threading

import pytest

from jprune.search import workers
from jprune.search.workers import Watch, beating, is_dead, worker


def test_a_worker_at_work_and_after_it():
    with worker() as signature:
        assert signature["pid"] == os.getpid()
        assert is_dead(signature) is False
    assert is_dead(signature) is True  # the process lives, but works on nothing


def test_a_process_of_this_machine_that_is_gone():
    done = subprocess.Popen([sys.executable, "-c", ""])
    with worker() as signature:
        signature |= {"pid": done.pid, "process_started": None}
        done.wait()
        assert is_dead(signature) is True


def test_another_process_of_this_machine_that_lives():
    with worker() as signature:
        signature |= {"pid": os.getppid(), "process_started": None, "worker": "other"}
        assert is_dead(signature) is False


def test_a_process_id_that_was_given_out_again():
    with worker() as signature:
        if signature["process_started"] is None:
            pytest.skip("nobody says here when a process started")
        assert is_dead(signature | {"process_started": "1"}) is True


def test_nothing_is_known_of_other_machines():
    with worker() as signature:
        assert is_dead(signature | {"machine": "another boot", "host": "elsewhere"}) is None
        assert is_dead({}) is None
        # Where machines say nothing of themselves, host names have to do.
        assert is_dead(signature | {"machine": None, "host": "elsewhere"}) is None
        assert is_dead(signature | {"machine": None}) is False


def test_a_worker_elsewhere_is_dead_if_nothing_comes_for_long():
    now = [0.0]
    watch = Watch(60, lambda: now[0])
    there = {"host": "elsewhere", "machine": "x", "pid": 1, "worker": "w"}
    assert not watch.is_stale(3, there, (1,))
    now[0] = 59.0
    assert not watch.is_stale(3, there, (1,))
    now[0] = 100.0
    assert not watch.is_stale(3, there, (2,))  # a sign of life
    assert not watch.is_stale(4, there, (1,))  # another trial
    now[0] = 161.0
    assert watch.is_stale(3, there, (2,)) and watch.is_stale(4, there, (1,))


def test_beats_are_counted_and_end(monkeypatch):
    monkeypatch.setattr(workers, "BEAT_EVERY", 0.01)
    counts, enough = [], threading.Event()

    def beat(count):
        counts.append(count)
        if count == 3:
            enough.set()

    with beating(beat):
        assert enough.wait(10)
    number = len(counts)
    assert counts == list(range(1, number + 1))
    assert not [t for t in threading.enumerate() if t.name == "jprune search"]
