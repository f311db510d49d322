"""Which ranks of leave-one-out perplexity scores are inside the noise of the calibration data.

Two units a, b next to each other in the order differ by D = mean over windows of
(NLL without b - NLL without a). Its standard error is std(D per window) / sqrt(windows) when
the file keeps the NLL of every window; otherwise sqrt(se_a^2 + se_b^2) from the two units' own
standard errors, which ignores that both were measured on the same windows and is therefore
rather too large. |D| < standard error: the data cannot tell which of the two matters less.
"""

import math
import statistics
from dataclasses import dataclass

from jprune.report.reading import ScoreFile


@dataclass(frozen=True)
class Gap:
    """The step between the units of rank `rank` and `rank + 1` (ranks from 1)."""

    rank: int
    difference: float
    standard_error: float
    paired: bool

    @property
    def in_noise(self) -> bool:
        """Whether the difference is smaller than its standard error."""
        return abs(self.difference) < self.standard_error


def neighbour_gaps(scores: ScoreFile) -> list[Gap]:
    """The gaps between neighbours in the order, where both have an NLL difference and an error.

    Empty for criteria without error bars, and for greedy, whose steps are not alternatives.
    """
    if scores.criterion == "greedy":
        return []
    neighbours = enumerate(zip(scores.order, scores.order[1:], strict=False), start=1)
    gaps = (
        _paired(scores, *ab, rank) or _independent(scores, *ab, rank) for rank, ab in neighbours
    )
    return [gap for gap in gaps if gap is not None]


def _paired(scores: ScoreFile, a: int, b: int, rank: int) -> Gap | None:
    windows = scores.window_nll or ()
    first, second = (windows[i] if windows else None for i in (a, b))
    if first is None or second is None or len(first) < 2:
        return None
    d = [y - x for x, y in zip(first, second, strict=True) if x is not None and y is not None]
    return Gap(rank, statistics.fmean(d), statistics.stdev(d) / math.sqrt(len(d)), True)


def _independent(scores: ScoreFile, a: int, b: int, rank: int) -> Gap | None:
    delta, errors = scores.delta_nll, scores.standard_error
    if delta is None or errors is None:
        return None
    low, high, low_error, high_error = delta[a], delta[b], errors[a], errors[b]
    if low is None or high is None or low_error is None or high_error is None:
        return None
    return Gap(rank, high - low, math.hypot(low_error, high_error), False)


def tied_ranks(gaps: list[Gap]) -> list[tuple[int, int]]:
    """Runs (first, last) of ranks that are linked by gaps inside the noise."""
    groups: list[tuple[int, int]] = []
    for gap in gaps:
        if not gap.in_noise:
            continue
        if groups and groups[-1][1] == gap.rank:
            groups[-1] = groups[-1][0], gap.rank + 1
        else:
            groups.append((gap.rank, gap.rank + 1))
    return groups
