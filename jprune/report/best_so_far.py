"""How the best of a search became better, beside searches that only remove."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jprune.report.axes import (
    INK,
    LINES,
    REMOVED,
    add_legend,
    identifier,
    new_axes,
    numbers,
    plain,
    set_labels,
)
from jprune.report.searches import Search

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_CUT = 2.0  # an axis shows so many times the range of what the second half of the trials has


@dataclass(frozen=True)
class BestSoFar:
    """One line: the lowest score after so many trials, NaN before there is one.

    Attributes:
      name: of the line.
      trials: from 1.
      score: the mean over the objectives of NLL / the base's NLL.
      is_result: it is the search itself.
      is_thick: it is that, or the best of those that only remove.
    """

    name: str
    trials: tuple[int, ...]
    score: tuple[float, ...]
    is_result: bool
    is_thick: bool


def best_so_far(search: Search) -> tuple[BestSoFar, ...]:
    """The lines of the figure: the search itself, then those that only remove, the best first."""
    own = "this search, stitching" if search.variants else "this search"
    lines = [BestSoFar(own, search.curve.trials, _floats(search.curve.score), True, True)]
    for position, one in enumerate(search.removal_curves):
        if one.curve:
            name = f"removal alone, {one.model}"
            trials, score = one.curve.trials, _floats(one.curve.score)
            lines.append(BestSoFar(name, trials, score, False, position == 0))
    return tuple(lines)


def best_so_far_figure(search: Search) -> "Figure":
    """The best score so far against the number of trials, as steps; the base is at 1.

    The best of the searches that only remove is as thick as this one, the others are thin.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = new_axes(height=4.2)
    colours = iter(LINES * 4)
    lines = best_so_far(search)
    for one in lines:
        (line,) = axes.plot(
            one.trials, one.score, drawstyle="steps-post", label=plain(one.name),
            color=REMOVED["block"] if one.is_result else next(colours),
            linewidth=2.6 if one.is_thick else 1.2, zorder=4 if one.is_thick else 3,
            linestyle="-" if one.is_result or one.is_thick else "--",
        )  # fmt: skip
        line.set_gid(f"best-{identifier(one.name)}")
    base = axes.axhline(1.0, color=INK, linewidth=1.2, linestyle=":", label="base, unpruned")
    base.set_gid("best-base")
    low, high = score_range(lines)
    axes.set_ylim(low, high)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    set_labels(axes, "Best so far", "Trials", "Score (mean NLL ratio to the base)")
    add_legend(axes)
    return figure


def score_range(lines: tuple[BestSoFar, ...]) -> tuple[float, float]:
    """What of the scores an axis shows: 1, and what the lines come to.

    First trials may be so much worse that the rest would look flat; they leave the axes at the top.
    """
    late = [s for one in lines for s in one.score[len(one.score) // 2 :] if math.isfinite(s)]
    every = [s for one in lines for s in one.score if math.isfinite(s)]
    low, settled = min([1.0, *every]), max([1.0, *late])
    high = min(max([1.0, *every]), low + _CUT * (settled - low)) if late else settled
    margin = 0.05 * (high - low) or 0.05
    return low - margin, high + margin


def _floats(score) -> tuple[float, ...]:
    return tuple(numbers(score))
