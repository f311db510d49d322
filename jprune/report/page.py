"""Writes the report of a workdir: report.html and plots/*.png, from its JSON files alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jprune.core.files import as_path, write_bytes, write_text
from jprune.report import html, plots
from jprune.report.front import front_panels
from jprune.report.reading import BASELINES, RunRecord, read_run

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Figures whose title is the heading of their section.
_HEADED = ("curve", "sparsity_curve", "training", "best", "front")


@dataclass(frozen=True)
class Report:
    """What `write_report` wrote, and the run that it read."""

    run: RunRecord
    page: Any
    plots: tuple[Any, ...]


def draw(run: RunRecord) -> "dict[str, Figure]":
    """The figures that the run has data for: stitched, best, front, curve, sparsity_curve,
    training, density, scores-NAME, windows-NAME.
    """
    figures: dict[str, Figure] = _search_figures(run)
    curve = run.figures.get("curve")
    if isinstance(curve, Mapping) and curve.get("series"):
        chosen = run.chosen.criterion if run.chosen else None
        figures["curve"] = plots.curve_figure(curve, chosen, len(run.removed))
    sparse = run.sparse
    if run.sparsity_curve is not None and run.sparsity_curve.series:
        own = (sparse.allocation, sparse.target) if sparse else ()
        figures["sparsity_curve"] = plots.sparsity_curve_figure(run.sparsity_curve, *own)
    if sparse is not None and sparse.blocks:
        figures["density"] = plots.density_figure(sparse)
    training = run.figures.get("training")
    if isinstance(training, Mapping) and training.get("step"):
        figures["training"] = plots.training_figure(training)
    removed = frozenset(run.removed)
    for scores in run.scores:
        if scores.criterion in BASELINES:
            continue
        if scores.window_scores:
            figures[f"windows-{scores.name}"] = plots.window_figure(scores, removed)
        if any(v is not None for v in scores.values):
            figures[f"scores-{scores.name}"] = plots.score_figure(scores, removed)
    return figures


def _search_figures(run: RunRecord) -> "dict[str, Figure]":
    figures: dict[str, Figure] = {}
    search = run.search
    if search is None:
        return figures
    layers = run.pair("layers")[0]
    if search.variants and isinstance(layers, int):
        figures["stitched"] = plots.stitched_figure(search, layers)
    if any(score is not None for score in search.curve.score):
        figures["best"] = plots.best_so_far_figure(search)
    if front_panels(search):
        figures["front"] = plots.front_figure(search)
    return figures


def write_report(workdir) -> Report:
    """Writes `report.html` and `plots/*.png` of a workdir; each file is replaced whole.

    Plots of an earlier report that this one does not have are removed. The same JSON gives the
    same bytes.

    Raises:
      InputError: no such folder, no run.json in it, or a JSON file that is not what it should be.
    """
    run = read_run(workdir)
    root = as_path(workdir)
    figures = draw(run)
    written = []
    for name, figure in figures.items():
        path = root / "plots" / f"{name}.png"
        write_bytes(path, plots.png(figure))
        written.append(path)
    svgs = {
        name: plots.svg(figure, f"figure{i}", title=name not in _HEADED)
        for i, (name, figure) in enumerate(figures.items())
    }
    write_text(root / "report.html", html.page(run, svgs))
    if (root / "plots").is_dir():
        for old in (root / "plots").glob("*.png"):
            if old.name not in {path.name for path in written}:
                old.unlink(missing_ok=True)
    return Report(run, root / "report.html", tuple(written))
