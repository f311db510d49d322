"""SIGTERM as an exception, so that a preempted job stops with everything it finished recorded."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from jprune.core.errors import Interrupted

MESSAGE = "interrupted; run the same command again to continue"


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], None]]:
    """Within the block SIGTERM raises Interrupted in the main thread.

    Gives a function to call at safe points: it raises too if the signal came while code was
    running that swallows exceptions. Outside the main thread signals are left as they are.
    """
    received = []
    again: list[threading.Timer] = []

    def handler(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise Interrupted(MESSAGE)

    def check() -> None:
        if received:
            raise Interrupted(MESSAGE)

    if threading.current_thread() is not threading.main_thread():
        yield check
        return

    def unraisable(problem: Any) -> None:
        # Python drops exceptions in callbacks of its garbage collector, and says so. Ours must not
        # be lost, and needs no words: the signal comes again once the callback has returned.
        if not isinstance(problem.exc_value, Interrupted):
            before_hook(problem)
            return
        again.append(threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)))
        again[-1].start()

    before = signal.signal(signal.SIGTERM, handler)
    before_hook, sys.unraisablehook = sys.unraisablehook, unraisable
    try:
        yield check
    finally:
        for timer in again:
            timer.cancel()
            timer.join()
        sys.unraisablehook = before_hook
        signal.signal(signal.SIGTERM, before)
