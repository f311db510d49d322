"""Real processes: when one has to stop, all do, and soon."""

import signal
import time

import pytest

from tests.several import finish, start

PROGRAM = """
import ctypes, signal, sys, time
import jax
from jprune.cli import main, score
from jprune.core import ending, processes
from jprune.core.errors import InputError

def deaf():  # as in a computation that waits for a process that never comes
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])  # it would interrupt the call
    ctypes.CDLL(None).sleep(60)

def refuse():
    raise InputError("no room here")

def refuse_late(where):
    # One fails before the exchange that the other waits in.
    def work():
        if where != jax.process_index():
            processes.together(lambda: None)
        refuse()
    processes.together(work)

def run(flags):
    first, second = sys.argv[1:]
    sys.stderr.write("ready\\n")
    sys.stderr.flush()
    exec((first, second)[jax.process_index()])
    return 0

ending.GRACE = 2.0
score.run = run
status = main.main(["score"])
print("status", status, flush=True)
sys.exit(status)
"""


def run(first, second, signalled=None, timeout=60):
    """Statuses, stdouts and stderrs of two processes that run a line each."""
    running = start(PROGRAM, first, second, devices=1)
    if signalled is not None:
        for process in running:
            while process.stderr.readline() != "ready\n":
                assert process.poll() is None
        time.sleep(0.5)  # they do what their line says
        running[signalled].send_signal(signal.SIGTERM)
    printed = finish(running, timeout)
    return [process.returncode for process in running], *zip(*printed, strict=True)


@pytest.mark.parametrize(
    ("lines", "signalled"),
    [
        (("deaf()", "time.sleep(60)"), 0),
        (("deaf()", "time.sleep(60)"), 1),
        (("time.sleep(60)", "deaf()"), 0),
        (("time.sleep(60)", "pass"), 1),
    ],
)
def test_sigterm_reaches_also_those_who_do_not_listen(lines, signalled):
    statuses, _, errors = run(*lines, signalled)
    assert statuses == [75, 75], errors
    for process, (line, err) in enumerate(zip(lines, errors, strict=True)):
        assert "run the same command again to continue" in err and "Check failed" not in err
        assert ("ended with process" in err) == (line == "deaf()" and process != signalled)


@pytest.mark.parametrize("line", ["deaf()", "time.sleep(1); raise RuntimeError('closed by peer')"])
def test_an_error_of_one_ends_the_others_with_its_words(line):
    statuses, _, (first, second) = run(line, "raise ValueError('it broke')")
    assert statuses == [1, 1]
    assert "Traceback" in second and "it broke" in second
    assert "ended with process 1, which said: ValueError: it broke" in first
    assert "Traceback" not in first


def test_an_input_error_of_one_ends_the_others_as_one():
    statuses, _, errors = run("refuse()", "time.sleep(60)")
    assert statuses == [2, 2]
    assert all("no room here" in err for err in errors)


def test_who_is_ready_early_ends_like_one_that_fails_later():
    statuses, (first, _), errors = run("pass", "time.sleep(1); raise ValueError('it broke')")
    assert statuses == [1, 1], errors
    assert first == "status 1\n"
    assert "ended with process 1, which said: ValueError: it broke" in errors[0]


@pytest.mark.parametrize(
    "lines",
    [
        ("processes.together(lambda: None)", "processes.together(refuse)"),
        ("refuse_late(0)", "refuse_late(0)"),
    ],
)
def test_what_one_is_refused_all_are(lines):
    statuses, out, errors = run(*lines)
    assert statuses == [2, 2], errors
    assert out == ("status 2\n",) * 2  # each has ended by itself
    for err in errors:
        assert err.count("error: no room here") == 1 and "ended with process" not in err
