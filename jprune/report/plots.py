"""The figures of a report, drawn with matplotlib Figure objects (no pyplot, no global state).

What a colour says is also said by a mark: removed units carry a cross, protected ones are hatched.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jprune.report.axes import (
    GRID,
    INK,
    KEPT,
    LINES,
    PROTECTED,
    REMOVED,
    add_legend,
    block_ticks,
    new_axes,
    numbers,
    plain,
    set_labels,
)
from jprune.report.best_so_far import best_so_far_figure
from jprune.report.curves import curve_figure, sparsity_curve_figure
from jprune.report.density import density_figure
from jprune.report.front import front_figure
from jprune.report.reading import PART_NAMES, ScoreFile, UnitKey
from jprune.report.stitched import stitched_figure
from jprune.report.tables import significant

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = [
    "GRID",
    "INK",
    "KEPT",
    "PROTECTED",
    "REMOVED",
    "best_so_far_figure",
    "curve_figure",
    "density_figure",
    "front_figure",
    "png",
    "score_figure",
    "sparsity_curve_figure",
    "stitched_figure",
    "svg",
    "training_figure",
    "window_figure",
]


def _clip(values: Sequence[float]) -> float | None:
    """The height at which to cut bars so that one or two giants do not flatten all others."""
    ranked = sorted(values, reverse=True)
    for outliers in (2, 1):
        if len(ranked) >= 6 and ranked[outliers - 1] > 2.5 * ranked[outliers] > 0:
            return 1.45 * ranked[outliers]
    return None


def score_figure(scores: ScoreFile, removed: frozenset[UnitKey] = frozenset()) -> "Figure":
    """A bar per unit over the block index: the score, or the NLL difference and its error.

    Bars more than 2.5 times as high as all but one or two are cut, with their value on top.
    """
    from matplotlib.patches import Patch

    figure, axes = new_axes()
    values = scores.values
    use_delta = values is scores.delta_nll
    errors = scores.standard_error if use_delta else None
    parts = [p for p in PART_NAMES if any(part == p for _, part in scores.units)]
    width = 0.8 / max(len(parts), 1)
    top = _clip([v for v in values if v is not None])
    low = min([0.0, *(v for v in values if v is not None)])
    high = top or max([0.0, *(v for v in values if v is not None)])
    shown = set()
    last_cut = -math.inf
    for i, ((layer, part), value) in enumerate(zip(scores.units, values, strict=True)):
        x = layer + (parts.index(part) - (len(parts) - 1) / 2) * width if part in parts else layer
        is_removed, is_protected = scores.is_removed(i, removed), i in scores.protected
        state = "removed" if is_removed else "protected" if is_protected else "kept"
        shown.add((part, state))
        if value is None:
            if is_protected:
                span = axes.axvspan(x - width / 2, x + width / 2, facecolor="none")
                span.set(hatch="////", edgecolor=PROTECTED, linewidth=0, alpha=0.6)
                span.set_gid(f"unit-{layer}-{part}-{state}")
            continue
        colour = {"removed": REMOVED, "kept": KEPT}.get(state, {}).get(part, PROTECTED)
        height = min(value, top) if top else value
        (bar,) = axes.bar(x, height, width * 0.92, color=colour)
        bar.set_gid(f"unit-{layer}-{part}-{state}")
        if is_protected:
            bar.set(facecolor="none", edgecolor=PROTECTED, hatch="////", linewidth=1)
        cut = top is not None and value > top
        error = errors[i] if errors else None
        if error is not None and not cut:
            axes.errorbar(x, value, error, ecolor=INK, elinewidth=1, capsize=2, fmt="none")
        reach = height + (error or 0.0) * (not cut)
        high, low = max(high, reach), min(low, value - (error or 0.0) * (value < 0))
        if cut:
            # Values on neighbouring cut bars stand one above the other.
            lift = 11 if x - last_cut < 1.5 else 2
            last_cut = x if lift == 2 else -math.inf
            axes.annotate(
                f"▲ {significant(value, 3)}", (x, height), (0, lift), textcoords="offset points",
                ha="center", va="bottom", fontsize=8, color=INK,
            )  # fmt: skip
        if is_removed and not cut:
            axes.annotate(
                "×", (x, max(reach, 0.0)), (0, 1), textcoords="offset points",
                ha="center", va="bottom", fontsize=12, fontweight="bold", color=colour,
            )  # fmt: skip
    margin = 0.12 * (high - low) or 1.0
    axes.set_ylim(low - margin * (low < 0), high + margin)
    if low < 0:
        axes.axhline(0, color=INK, linewidth=0.8)
    if scores.units:
        block_ticks(axes, sorted({layer for layer, _ in scores.units}))
    handles = []
    for part in parts:
        if (part, "kept") in shown:
            handles.append(Patch(color=KEPT[part], label=f"{PART_NAMES[part]} kept"))
        if (part, "removed") in shown:
            handles.append(Patch(color=REMOVED[part], label=f"{PART_NAMES[part]} removed (×)"))
    if scores.protected:
        handles.append(
            Patch(facecolor="none", edgecolor=PROTECTED, hatch="////", label="protected")
        )
    name = plain(scores.criterion)
    y = "NLL increase (nats/token)" if use_delta else f"{name} score"
    title = f"{name[:1].upper()}{name[1:]} scores"
    if use_delta and scores.criterion == "greedy":
        y = "NLL increase at its step"
    if errors:
        title += " ± standard error"
    set_labels(axes, title, "Block index", y)
    add_legend(axes, handles)
    return figure


def window_figure(scores: ScoreFile, removed: frozenset[UnitKey] = frozenset()) -> "Figure":
    """The angular distance of every window of n contiguous blocks, by its first block."""
    figure, axes = new_axes()
    values = [math.nan if v is None else v for v in scores.window_scores or ()]
    axes.plot(range(len(values)), values, color=KEPT["block"], marker="o", markersize=4.5)
    layers = sorted(scores.units[i][0] for i in range(len(scores.units))
                    if scores.is_removed(i, removed))  # fmt: skip
    n = scores.n or 1
    if layers and layers == list(range(layers[0], layers[0] + n)) and layers[0] < len(values):
        start = layers[0]
        (mark,) = axes.plot(
            start, values[start], linestyle="none", marker="X", markersize=11,
            color=REMOVED["block"], label=f"removed (×): blocks {start}-{start + n - 1}",
        )  # fmt: skip
        mark.set_gid(f"window-{start}-removed")
    if values:
        block_ticks(axes, range(len(values)))
    set_labels(
        axes, f"Angular distance across {n} blocks", "First block of the window", "angle / π"
    )
    add_legend(axes)
    return figure


def training_figure(training: Mapping[str, Any]) -> "Figure":
    """Training loss over steps, and the validation loss where it was measured."""
    figure, axes = new_axes()
    steps, loss = list(training.get("step") or ()), numbers(training.get("loss"))
    axes.plot(steps[: len(loss)], loss[: len(steps)], color=LINES[0], linewidth=1.3, label="train")
    validation = training.get("validation")
    if isinstance(validation, Mapping):
        x, y = list(validation.get("step") or ()), numbers(validation.get("loss"))
    else:
        y = numbers(validation if isinstance(validation, list) else None)
        x = steps
    points = [(a, b) for a, b in zip(x, y, strict=False) if math.isfinite(b)]
    if points:
        axes.plot(*zip(*points, strict=True), color=REMOVED["block"], marker="o", markersize=4,
                  linewidth=1.5, label="validation")  # fmt: skip
        add_legend(axes, loc="upper right")
    set_labels(axes, "Training loss", "Step", "NLL (nats/token)")
    return figure


def png(figure: "Figure", dpi: int = 150) -> bytes:
    """The figure on white, 1200 pixels wide: sharp in a README on a dense display."""
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})
    return out.getvalue()


def svg(figure: "Figure", name: str, title: bool = True) -> str:
    """The figure as an `<svg>` element to inline in HTML.

    Ink and grid become `currentColor` and `var(--grid)` and the ground is left clear, so that the
    figure follows the page's theme; ids begin with `name`, so that figures can share a page.
    `title=False` takes the title off, for a page that has it as a heading.
    """
    import matplotlib

    if not title:
        for axes in figure.axes:
            axes.set_title("", loc="left")
    out = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    # Text stays text (it can be searched and read aloud); the salt makes ids repeatable.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(out, format="svg", transparent=True, metadata=nothing)
    text = out.getvalue()
    text = text[text.index("<svg") :].strip()
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)
    text = re.sub(r'(?:xlink:)?href="#([^"]+)"', rf'href="#{name}-\1"', text)
    text = re.sub(r'<svg ([^>]*?)width="[^"]*"', r"<svg \1", text, count=1)
    text = re.sub(r'<svg ([^>]*?)height="[^"]*"', r"<svg \1", text, count=1)
    return text.replace(INK, "currentColor").replace(GRID, "var(--grid)")
