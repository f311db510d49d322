"""When a run must stop early: SIGTERM, or a notice that the machine will be taken away."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator

import jax

_SERVICE = "jax_enable_preemption_service"


def never() -> bool:
    """No signal has come."""
    return False


@contextlib.contextmanager
def sigterm() -> Iterator[Callable[[], bool]]:
    """A function that says whether SIGTERM has come since; outside the main thread, never."""
    if threading.current_thread() is not threading.main_thread():
        yield never
        return
    came = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: came.set())
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGTERM, before)


def preempted(step: int) -> bool:
    """Whether this is the step after which all processes save, because one will be taken away.

    One process gets the notice, JAX's preemption service passes it on, and all agree on a step that
    none has passed yet: so every process must ask after every step. The service runs where
    `jax.distributed` is initialised and jax_enable_preemption_service is on.
    """
    if not (jax.distributed.is_initialized() and getattr(jax.config, _SERVICE)):
        return False
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(step)
