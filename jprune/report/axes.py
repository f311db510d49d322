"""What the figures of a report share: colours, axes, labels, legends, scales.

Colours are those of Okabe and Ito, told apart with every common colour blindness.
"""

import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, GRID = "#243140", "#d9dee4"
KEPT = {"block": "#0072B2", "attention": "#0072B2", "mlp": "#56B4E9"}
REMOVED = {"block": "#D55E00", "attention": "#D55E00", "mlp": "#E69F00"}
PROTECTED = "#9aa5b1"
LINES = ("#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#6A3D9A", INK)
BASELINE_COLOURS = {"random": "#97a1ac", "last": "#768290"}
LOG_RANGE = 8.0  # a perplexity axis that spans more than this factor is logarithmic


def new_axes(width: float = 8.0, height: float = 3.3) -> "tuple[Figure, Axes]":
    """A figure of so many inches with one pair of axes in it."""
    figure, (axes,) = new_grid(1, 1, width, height)
    return figure, axes


def new_grid(
    count: int, columns: int, width: float = 8.0, height: float = 3.3
) -> "tuple[Figure, list[Axes]]":
    """A figure with so many pairs of axes, row by row; `height` is of a row."""
    from matplotlib.figure import Figure

    rows = math.ceil(count / columns)
    figure = Figure(figsize=(width, height * rows), layout="constrained")
    found = [figure.add_subplot(rows, columns, number) for number in range(1, count + 1)]
    for axes in found:
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        for side in ("left", "bottom"):
            axes.spines[side].set_color(INK)
        axes.tick_params(colors=INK, labelsize=9, length=3)
        axes.grid(axis="y", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
    return figure, found


def set_labels(axes: "Axes", title: str, x: str, y: str) -> None:
    """Sets the title and the names of both axes."""
    axes.set_title(title, loc="left", color=INK, fontsize=11, fontweight="bold", pad=10)
    axes.set_xlabel(x, color=INK, fontsize=10)
    axes.set_ylabel(y, color=INK, fontsize=10)


def add_legend(axes: "Axes", handles=None, **where) -> None:
    """A legend beside the title, below the axes if it is too wide for that, or `where`."""
    handles = handles or axes.get_legend_handles_labels()[0]
    if not handles:
        return
    options = {"handles": handles, "frameon": False, "fontsize": 9, "labelcolor": INK}
    if where:
        axes.legend(**options, **where)
    elif len(handles) > 3 or len("".join(str(h.get_label()) for h in handles)) > 48:
        # Too wide to stand beside the title.
        columns = 5 if len(handles) <= 5 else 3
        axes.figure.legend(**options, loc="outside lower center", ncols=columns)
    else:
        axes.legend(**options, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=3)


def block_ticks(axes: "Axes", layers: Sequence[int]) -> None:
    """An axis over block indices, not all of them numbered where they are many."""
    step = max(1, math.ceil(len(layers) / 32))
    axes.set_xticks(list(layers)[::step])
    axes.set_xlim(min(layers) - 0.7, max(layers) + 0.7)


def perplexity_scale(axes: "Axes", values: Sequence[float]) -> None:
    """Makes the axis logarithmic where these perplexities span more than `LOG_RANGE`."""
    finite = [v for v in values if math.isfinite(v) and v > 0]
    if not finite or max(finite) <= LOG_RANGE * min(finite):
        return
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axes.set_yscale("log")
    wide = max(finite) > 1000 * min(finite)
    axes.yaxis.set_major_locator(LogLocator() if wide else LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:,.10g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def plain(text: str) -> str:
    """`text` with dollar signs escaped: matplotlib would read them as mathematics."""
    return text.replace("$", r"\$")


def identifier(text: str) -> str:
    """`text` as part of an id of an SVG element."""
    return re.sub(r"[^A-Za-z0-9_-]", "_", text)


def numbers(values) -> list[float]:
    """Numbers and None as floats; None becomes NaN, which is not drawn."""
    return [math.nan if v is None else float(v) for v in values or ()]
