"""Perplexity against how much was pruned, as lines: units removed, or sparsity."""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from jprune.report.axes import (
    BASELINE_COLOURS,
    INK,
    LINES,
    REMOVED,
    add_legend,
    identifier,
    new_axes,
    numbers,
    perplexity_scale,
    plain,
    set_labels,
)
from jprune.report.reading import BASELINES
from jprune.report.sparsity import SparsityCurve
from jprune.report.tables import ppl, rate

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def curve_figure(
    curve: Mapping[str, Any], chosen: str | None = None, removed_count: int | None = None
) -> "Figure":
    """Perplexity against the number of removed units, one line per criterion.

    Baselines are grey (random: the mean, with a band from the least to the greatest of its
    seeds); `chosen` is drawn thicker; a vertical line marks what this run removed.
    """
    figure, axes = new_axes(height=4.2)
    everything: list[float] = []
    colours = iter(LINES * 4)
    series = sorted(curve.get("series") or (), key=lambda s: s.get("criterion") != chosen)
    for one in series:
        name = str(one.get("criterion"))
        x, y = list(one.get("removed") or ()), numbers(one.get("ppl"))
        x, y = x[: len(y)], y[: len(x)]
        everything += y
        baseline = name in BASELINES
        colour = BASELINE_COLOURS[name] if baseline else next(colours)
        label = plain(name)
        lows, highs = numbers(one.get("ppl_min")), numbers(one.get("ppl_max"))
        if len(lows) == len(x) == len(highs):
            axes.fill_between(x, lows, highs, color=colour, alpha=0.18, linewidth=0)
            everything += lows + highs
            seeds = len(one.get("seeds") or ())
            label += f" (mean and range of {seeds} seeds)" if seeds else " (mean and range)"
        (line,) = axes.plot(
            x, y, color=colour, label=label, markersize=5 if name == chosen else 4,
            linewidth=2.4 if name == chosen else 1.5, zorder=4 if name == chosen else 3,
            marker={"random": "s", "last": "D"}.get(name, "o"),
            linestyle={"random": "--", "last": ":"}.get(name, "-"),
        )  # fmt: skip
        line.set_gid(f"curve-{identifier(name)}")
    perplexity_scale(axes, everything)
    if removed_count:
        axes.axvline(removed_count, color=REMOVED["block"], linewidth=1.2, linestyle=(0, (4, 3)),
                     label=f"this run: {removed_count} removed")  # fmt: skip
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    set_labels(axes, "Perplexity against units removed", "Units removed", "Perplexity")
    add_legend(axes, **({"loc": "upper left"} if len(series) <= 3 else {}))
    return figure


def _short(name: str, longest: int = 32) -> str:
    """A name for a legend: a file without its folders, the end of what is still too long."""
    name = name.rpartition("/")[2]
    return name if len(name) <= longest else f"…{name[1 - longest :]}"


def sparsity_curve_figure(
    curve: SparsityCurve, chosen: str | None = None, target: float | None = None
) -> "Figure":
    """Perplexity against the achieved sparsity, one line per allocation.

    `chosen` is drawn thicker and uniform in grey; a horizontal line is the unpruned model, a
    vertical one marks the target of this run.
    """
    from matplotlib.ticker import FuncFormatter

    figure, axes = new_axes(height=4.2)
    everything = [] if curve.dense is None else [curve.dense]
    colours = iter(LINES * 4)
    for one in sorted(curve.series, key=lambda s: s.allocation != chosen):
        name, own = one.allocation, one.allocation == chosen
        x = [t if a is None else a for t, a in zip(one.sparsity, one.achieved, strict=True)]
        y = numbers(one.ppl)
        everything += y
        (line,) = axes.plot(
            x, y, label=plain(_short(name)), marker="s" if name == "uniform" else "o",
            color=BASELINE_COLOURS["last"] if name == "uniform" else next(colours),
            linestyle="--" if name == "uniform" else "-", markersize=5 if own else 4,
            linewidth=2.4 if own else 1.5, zorder=4 if own else 3,
        )  # fmt: skip
        line.set_gid(f"curve-{identifier(name)}")
    perplexity_scale(axes, everything)
    if curve.dense is not None and math.isfinite(curve.dense):
        line = axes.axhline(curve.dense, color=INK, linewidth=1.2, linestyle=":",
                            label=f"unpruned: {ppl(curve.dense)}")  # fmt: skip
        line.set_gid("curve-dense")
    if target is not None:
        axes.axvline(target, color=REMOVED["block"], linewidth=1.2, linestyle=(0, (4, 3)),
                     label=f"this run: {rate(target)}")  # fmt: skip
    targets = sorted({x for one in curve.series for x in one.sparsity})
    gap = min((b - a for a, b in pairwise(targets)), default=1.0)
    if gap > 0.04 * (targets[-1] - targets[0]):  # otherwise their labels would touch
        axes.set_xticks(targets)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda v, _: rate(v)))
    set_labels(axes, "Perplexity against sparsity", "Sparsity", "Perplexity")
    add_legend(axes)
    return figure
