"""The Pareto front of a search: what a better value of one objective costs in the others."""

import itertools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jprune.report.axes import GRID, INK, KEPT, REMOVED, add_legend, new_grid, plain, set_labels
from jprune.report.names import brief_names
from jprune.report.searches import Search
from jprune.report.tables import Cell, Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_PANELS = 10  # those of five objectives; above, the table alone says it
_MOST_ROWS = 20


@dataclass(frozen=True)
class FrontPanel:
    """Two objectives against each other; points are (NLL on the first, NLL on the second).

    Attributes:
      names: of the objectives.
      points: the trials on the front, in the order of the first objective.
      chosen: the result.
      base: the unpruned base.
    """

    names: tuple[str, str]
    points: tuple[tuple[float, float], ...]
    chosen: tuple[float, float]
    base: tuple[float, float]


def front_panels(search: Search) -> tuple[FrontPanel, ...]:
    """A panel for every pair of objectives: none for one, and none for more than five."""
    count = len(search.objectives)
    if count < 2 or math.comb(count, 2) > _MOST_PANELS or not search.front:
        return ()
    names = list(brief_names(search.objectives).values())
    return tuple(
        FrontPanel(
            (names[i], names[j]),
            tuple(sorted((point.values[i], point.values[j]) for point in search.front)),
            (search.values[i], search.values[j]),
            (search.base[i], search.base[j]),
        )
        for i, j in itertools.combinations(range(count), 2)
    )


def front_figure(search: Search) -> "Figure":
    """The panels of `front_panels` in rows of three; with two objectives the front is a line."""
    panels = front_panels(search)
    alone = len(panels) == 1
    figure, every = new_grid(len(panels), min(3, len(panels)), height=4.2 if alone else 3.0)
    for number, (panel, axes) in enumerate(zip(panels, every, strict=True)):
        x, y = zip(*panel.points, strict=True)
        (line,) = axes.plot(
            x, y, marker="o", markersize=5, color=KEPT["block"], label="trials on the front",
            linestyle="-" if alone else "none", drawstyle="steps-post", linewidth=1,
        )  # fmt: skip
        (base,) = axes.plot(*panel.base, linestyle="none", marker="D", markersize=7, color=INK,
                            label="base, unpruned")  # fmt: skip
        (chosen,) = axes.plot(
            *panel.chosen, linestyle="none", marker="*", markersize=15, color=REMOVED["block"],
            label="chosen: lowest mean ratio to the base", zorder=5,
        )  # fmt: skip
        for mark, name in ((line, "front"), (base, "base"), (chosen, "chosen")):
            mark.set_gid(f"{name}-{number}")
        axes.grid(axis="x", color=GRID, linewidth=0.8)
        title = "Pareto front" if number == 0 else ""
        set_labels(axes, title, *(plain(f"NLL on {name}") for name in panel.names))
    add_legend(every[0], [line, base, chosen])
    return figure


def front_table(search: Search) -> Table:
    """The trials on the front, the lowest mean ratio to the base first; the first is chosen.

    At most twenty of them, and the base.
    """
    names = brief_names(search.objectives).values()
    ranked = sorted(search.front, key=lambda point: (point.score, point.number))
    rows: list[tuple[Cell, ...]] = [
        (str(point.number), *(f"{value:.4f}" for value in point.values), f"{point.score:.4f}")
        for point in ranked[:_MOST_ROWS]
    ]
    rows.append(("base", *(f"{value:.4f}" for value in search.base), f"{1:.4f}"))
    left = len(ranked) - _MOST_ROWS
    caption = (
        "NLL on the windows that were searched on, and its mean ratio to the base's; the first is "
        "the result."
    )
    if left > 0:
        caption += f" {left} more are in search/result.json."
    return Table(("Trial", *(f"NLL on {name}" for name in names), "Mean ratio"), rows, caption)
