"""Seconds of a job: compilation apart, the median of several runs."""

import dataclasses
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax

from jprune.measure.compilations import compilations

Figures = Callable[["Measurement", Mapping[str, "Measurement"]], Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Job:
    """Something to measure.

    Attributes:
      name: of the row.
      run: does the whole job; what it returns is waited for.
      flops: model FLOPs that a run executes.
      figures: further ones, from the measurements of this job and, by name, of those before it.
      read_bytes: what a run cannot but read from device memory; 0 where FLOPs alone are the limit.
    """

    name: str
    run: Callable[[], Any]
    flops: int
    figures: Figures | None = None
    read_bytes: int = 0


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What a job took.

    Attributes:
      name: of the job.
      seconds: median over the runs after the first.
      slowest: the longest of them.
      compile_seconds: how much longer the first run took.
      flops: model FLOPs executed.
      compilations: programs compiled in the runs after the first.
      read_bytes: see `Job`.
    """

    name: str
    seconds: float
    slowest: float
    compile_seconds: float
    flops: int
    compilations: int = 0
    read_bytes: int = 0

    def utilisation(self, peak: float | None) -> float | None:
        """Model FLOP utilisation: FLOPs per second over the device's peak."""
        return None if peak is None else self.flops / self.seconds / peak


def measure(job: Job, repeats: int = 3) -> Measurement:
    """Runs a job once to compile it, then `repeats` times.

    Args:
      job: what to run.
      repeats: how many timed runs, at least one.
    """
    first = _seconds(job.run)
    before = compilations()
    times = [_seconds(job.run) for _ in range(max(repeats, 1))]
    median = statistics.median(times)
    return Measurement(
        name=job.name,
        seconds=median,
        slowest=max(times),
        compile_seconds=max(first - median, 0.0),
        flops=job.flops,
        compilations=compilations() - before,
        read_bytes=job.read_bytes,
    )


def _seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start
