"""How many programs JAX compiles."""

import functools

import jax

# The same word for what is compiled and what comes from the persistent cache.
_EVENT = "/jax/core/compile/backend_compile_duration"


def compilations() -> int:
    """How many programs this process has compiled, or loaded compiled, since it was first asked."""
    return len(_seen())


@functools.cache
def _seen() -> list[float]:
    """The seconds of each, counted from now on."""
    seen: list[float] = []

    def note(event: str, duration_secs: float, **kwargs: str | int) -> None:
        if event == _EVENT:
            seen.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(note)
    return seen
