"""Who works on a study: workers sign their trials and give signs of life, and the dead are found.

Optuna's own heartbeats work only within `Study.optimize`. Nobody compares clocks: a worker is dead
if it ran on this machine and is gone, or if nothing comes from it while one watches.
"""

import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from jprune.core import aside

BEAT_EVERY = 10.0  # seconds

# Workers of this process that are at work.
_AT_WORK: set[str] = set()


@contextmanager
def worker() -> Iterator[dict[str, Any]]:
    """A worker of this process until the block ends; gives the signature of its trials."""
    name = uuid.uuid4().hex
    _AT_WORK.add(name)
    try:
        yield {
            "worker": name,
            "host": socket.gethostname(),
            "machine": aside.machine(),
            "pid": os.getpid(),
            "process_started": aside.start_of(os.getpid()),
            "time": time.time(),
        }
    finally:
        _AT_WORK.discard(name)


def is_dead(signature: Mapping[str, Any]) -> bool | None:
    """Whether the worker that signed a trial is at work no more; None if it runs elsewhere."""
    if "pid" not in signature:
        return None
    here = aside.machine()
    known = here is not None and signature.get("machine") is not None
    same = signature["machine"] == here if known else signature["host"] == socket.gethostname()
    if not same:
        return None
    if aside.is_gone(signature["pid"], signature.get("process_started")):
        return True
    return signature["pid"] == os.getpid() and signature["worker"] not in _AT_WORK


class Watch:
    """Looks at running trials again and again for those whose workers are dead.

    Args:
      patience: seconds without a sign of life after which a worker elsewhere counts as dead.
      now: a clock that only goes forward, in seconds.
    """

    def __init__(self, patience: float | int, now: Callable[[], float] = time.monotonic):
        self._patience = patience
        self._now = now
        self._seen: dict[int, tuple[Any, float]] = {}

    def is_stale(self, number: int, signature: Mapping[str, Any], sign: Any) -> bool:
        """Whether nobody works on a running trial any more.

        Args:
          number: of the trial.
          signature: of its worker.
          sign: whatever changes as long as the worker lives.
        """
        dead = is_dead(signature)
        if dead is not None:
            return dead
        before, since = self._seen.get(number, (None, 0.0))
        if number not in self._seen or before != sign:
            self._seen[number] = (sign, self._now())
            return False
        return self._now() - since > self._patience


@contextmanager
def beating(beat: Callable[[int], None]) -> Iterator[None]:
    """Calls `beat` with 1, 2, ... every few seconds in a thread of its own until the block ends."""
    over = threading.Event()

    def run() -> None:
        count = 0
        while not over.wait(BEAT_EVERY):
            count += 1
            beat(count)

    thread = threading.Thread(target=run, name="jprune search", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
