"""Values of several seeds as their mean and deviation."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """The mean of n values, and their sample standard deviation (n - 1 below the root)."""

    mean: float
    deviation: float | None
    n: int

    @classmethod
    def of(cls, values: Sequence[int | float | None]) -> "Spread | None":
        """The spread of values; None unless all of them were measured."""
        known = [float(value) for value in values if value is not None]
        if not known or len(known) < len(values):
            return None
        finite = all(map(math.isfinite, known))
        deviation = None
        if len(known) > 1:
            deviation = statistics.stdev(known) if finite else math.nan
        return cls(statistics.fmean(known), deviation, len(known))
