"""SIGTERM becomes an exception wherever it arrives."""

import gc
import os
import signal
import sys
import time

import pytest

from jprune.core.errors import Interrupted
from jprune.pipeline import interruptible


def test_in_plain_code():
    with pytest.raises(Interrupted, match="run the same command again"), interruptible():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)


def test_in_a_callback_of_the_garbage_collector(capsys):
    armed = [True]

    def callback(phase, info):
        if armed and phase == "start":
            armed.clear()
            os.kill(os.getpid(), signal.SIGTERM)
            for _ in range(1000):  # the exception is raised, and dropped, in here
                pass

    gc.callbacks.append(callback)
    hook = sys.unraisablehook
    try:
        with pytest.raises(Interrupted), interruptible():
            gc.collect()
            time.sleep(5)
    finally:
        gc.callbacks.remove(callback)
    assert not armed and "ignored" not in capsys.readouterr().err
    assert sys.unraisablehook is hook


def test_other_dropped_exceptions_are_still_told():
    told = []
    before, sys.unraisablehook = sys.unraisablehook, lambda problem: told.append(problem.exc_value)

    class Noisy:
        def __del__(self):
            raise ValueError("lost")

    try:
        with interruptible():
            Noisy()  # gone at once
    finally:
        sys.unraisablehook = before
    assert [str(error) for error in told] == ["lost"]


def test_afterwards_signals_are_as_they_were():
    before = signal.getsignal(signal.SIGTERM)
    with interruptible():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
