"""How dense each block is: what the allocation asked for, and what came out."""

from typing import TYPE_CHECKING

from jprune.report.axes import INK, KEPT, REMOVED, add_legend, block_ticks, new_axes, set_labels
from jprune.report.sparsity import Sparsity
from jprune.report.tables import rate

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def density_figure(sparsity: Sparsity) -> "Figure":
    """A bar per block: its allocated density; a mark: the achieved one, 1 - sparsity.

    A horizontal line is what a uniform allocation would give every block.
    """
    from matplotlib.ticker import FuncFormatter

    figure, axes = new_axes()
    layers = [block.layer for block in sparsity.blocks]
    # Merged models can have two blocks of the same origin.
    x = layers if len(set(layers)) == len(layers) else list(range(len(layers)))
    for at, block in zip(x, sparsity.blocks, strict=True):
        (bar,) = axes.bar(at, block.density, 0.74, color=KEPT["mlp"])
        bar.set_gid(f"density-{at}")
    bar.set_label("allocated")
    (marks,) = axes.plot(
        x, [1 - block.sparsity for block in sparsity.blocks], linestyle="none", marker="D",
        markersize=4.5 if len(x) <= 48 else 3, color=INK, label="achieved", zorder=4,
    )  # fmt: skip
    marks.set_gid("density-achieved")
    mean = 1 - sparsity.target
    axes.axhline(mean, color=REMOVED["block"], linewidth=1.2, linestyle=(0, (4, 3)),
                 label=f"uniform: {rate(mean)}")  # fmt: skip
    block_ticks(axes, x)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda v, _: rate(v)))
    set_labels(axes, "Density of the blocks", "Block index", "Weights that stay")
    add_legend(axes, [bar, marks, axes.lines[-1]])
    return figure
