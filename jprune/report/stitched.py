"""A stitched model as a picture: which model each layer is taken from, merged of, or dropped."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Int

from jprune.report.axes import GRID, INK, KEPT, new_axes, plain, set_labels
from jprune.report.searches import Search

if TYPE_CHECKING:
    from matplotlib.figure import Figure

UNUSED, TAKEN, MERGED, DROPPED = range(4)
_DARK = "#10202c"  # on coloured cells, whatever the theme of the page


@dataclass(frozen=True)
class StitchGrid:
    """What becomes of the layers of a base and its variants.

    Attributes:
      names: of the models, the base first.
      states: of each model's layers: UNUSED, TAKEN (this model alone), MERGED (with others into the
        base), DROPPED (the layer is gone).
      factors: of the merges; NaN elsewhere.
    """

    names: tuple[str, ...]
    states: Int[np.ndarray, "models layers"]
    factors: Float[np.ndarray, "models layers"]


def stitch_grid(search: Search, num_layers: int) -> StitchGrid:
    """The grid of a search's result on a base of so many layers."""
    names = (search.base_name, *search.variants)
    states = np.full((len(names), num_layers), UNUSED)
    states[0] = TAKEN
    factors = np.full(states.shape, np.nan)
    for mix in search.mixes:
        rows = [1 + number for number in mix.variants]
        states[0, mix.layer] = UNUSED
        states[rows, mix.layer] = TAKEN if mix.factor is None else MERGED
        if mix.factor is not None:
            factors[rows, mix.layer] = mix.factor
    states[:, [layer for layer, _ in search.removed]] = DROPPED
    return StitchGrid(names, states, factors)


def stitched_figure(search: Search, num_layers: int) -> "Figure":
    """The grid as cells, a row per model: the factor stands in merged ones, × in dropped ones."""
    from matplotlib.patches import Patch, Rectangle

    grid = stitch_grid(search, num_layers)
    figure, axes = new_axes(height=1.5 + 0.33 * len(grid.names))
    looks = {TAKEN: KEPT["block"], MERGED: KEPT["mlp"], DROPPED: GRID}
    words = {UNUSED: "unused", TAKEN: "taken", MERGED: "merged", DROPPED: "dropped"}
    size = 8.5 if num_layers <= 24 else 6.5 if num_layers <= 40 else 5.5
    upright = num_layers > 40
    for (row, layer), state in np.ndenumerate(grid.states):
        cell = Rectangle((layer - 0.46, row - 0.42), 0.92, 0.84, linewidth=0.6)
        cell.set(facecolor=looks.get(state, "none"), edgecolor=GRID)
        cell.set_gid(f"layer-{row}-{layer}-{words[state]}")
        axes.add_patch(cell)
        text = {MERGED: factor_text(float(grid.factors[row, layer])), DROPPED: "×"}.get(state)
        if text:
            axes.text(layer, row, text, ha="center", va="center_baseline", fontsize=size,
                      color=_DARK if state == MERGED else INK,
                      rotation=90 if upright and state == MERGED else 0)  # fmt: skip
    axes.grid(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    axes.tick_params(length=0)
    axes.set_xlim(-0.6, num_layers - 0.4)
    axes.set_ylim(len(grid.names) - 0.5, -0.5)
    axes.set_xticks(range(0, num_layers, 1 if num_layers <= 40 else 4))
    axes.set_yticks(range(len(grid.names)), [plain(name) for name in grid.names])
    set_labels(axes, "The stitched model", "Layer of the base", "")
    labels = {
        TAKEN: "taken from this model alone",
        MERGED: "merged into the base, with this factor",
        DROPPED: "dropped (×)",
    }
    shown = [state for state in labels if (grid.states == state).any()]
    handles = [Patch(facecolor=looks[s], edgecolor=GRID, label=labels[s]) for s in shown]
    figure.legend(handles=handles, frameon=False, fontsize=9, labelcolor=INK, ncols=3,
                  loc="outside lower center")  # fmt: skip
    return figure


def factor_text(factor: float) -> str:
    """A factor in at most three characters: 1, .5, .37."""
    text = f"{factor:.2f}".rstrip("0").rstrip(".")
    return text.removeprefix("0") or "0"
