import numpy as np
import pytest
from matplotlib.colors import same_color

from jprune.report import axes as shared
from jprune.report import parse_sparsity, plots
from jprune.report.sparsity import parse_sparsity_curve
from tests.report import sparse_runs
from tests.report.sparse_runs import DENSITY


def lines(figure):
    return {line.get_gid(): line for line in figure.axes[0].lines if line.get_gid()}


def test_bars_are_the_allocated_densities_and_marks_the_achieved_ones():
    data = sparse_runs.masks()
    figure = plots.density_figure(parse_sparsity(data))
    bars = {bar.get_gid(): bar.get_height() for bar in figure.axes[0].patches}
    assert bars == {f"density-{layer}": density for layer, density in enumerate(DENSITY)}
    marks = lines(figure)["density-achieved"]
    assert list(marks.get_xdata()) == [0, 1, 2, 3]
    np.testing.assert_allclose(marks.get_ydata(), [d + 0.0004 for d in DENSITY])
    texts = [t.get_text() for t in figure.axes[0].get_legend().get_texts()]
    assert texts == ["allocated", "achieved", "uniform: 30%"]
    (mean,) = {round(y, 9) for y in figure.axes[0].lines[-1].get_ydata()}
    assert mean == 0.3


def test_bars_stand_at_original_indices_unless_these_repeat():
    data = sparse_runs.masks()
    data["blocks"][3]["layer"] = 7
    figure = plots.density_figure(parse_sparsity(data))
    assert {bar.get_gid() for bar in figure.axes[0].patches} >= {"density-7"}
    data["blocks"][3]["layer"] = 0
    marks = lines(plots.density_figure(parse_sparsity(data)))["density-achieved"]
    assert list(marks.get_xdata()) == [0, 1, 2, 3]


def test_the_curve_has_a_line_per_allocation_at_what_was_achieved():
    figure = plots.sparsity_curve_figure(parse_sparsity_curve(sparse_runs.curve()), "dlp", 0.7)
    found = lines(figure)
    assert set(found) == {"curve-uniform", "curve-dlp", "curve-dense"}
    np.testing.assert_allclose(found["curve-dlp"].get_xdata(), [0.4997, 0.5997, 0.6997])
    assert list(found["curve-dlp"].get_ydata()) == [68.25, 99.5, 410.75]
    assert set(found["curve-dense"].get_ydata()) == {55.25}
    assert found["curve-dlp"].get_linewidth() > found["curve-uniform"].get_linewidth()
    assert same_color(found["curve-uniform"].get_color(), shared.BASELINE_COLOURS["last"])
    texts = [t.get_text() for t in figure.legends[0].get_texts()]
    assert texts == ["dlp", "uniform", "unpruned: 55.25", "this run: 70%"]
    assert list(figure.axes[0].get_xticks()) == [0.5, 0.6, 0.7]
    assert figure.axes[0].get_yscale() == "log"  # 901.5 is more than 8 times 55.25


def test_targets_stand_in_for_what_was_achieved_where_that_is_unknown():
    curve = sparse_runs.curve(dense=None)
    curve["series"][1]["achieved"][1] = None
    curve["series"][1]["ppl"][2] = None
    found = lines(plots.sparsity_curve_figure(parse_sparsity_curve(curve)))
    np.testing.assert_allclose(found["curve-dlp"].get_xdata(), [0.4997, 0.6, 0.6997])
    np.testing.assert_array_equal(found["curve-dlp"].get_ydata(), [68.25, 99.5, np.nan])
    assert "curve-dense" not in found


@pytest.mark.parametrize(("dense", "scale"), [(100.0, "linear"), (10.0, "log")])
def test_the_unpruned_model_counts_for_the_scale(dense, scale):
    curve = sparse_runs.curve(dense=dense)
    curve["series"] = [one | {"ppl": [70.0, 80.0, 90.0]} for one in curve["series"]]
    figure = plots.sparsity_curve_figure(parse_sparsity_curve(curve))
    assert figure.axes[0].get_yscale() == scale


def test_many_targets_are_not_all_numbered():
    targets = [0.1, *np.linspace(0.5, 0.6, 11).round(3).tolist()]
    one = {"allocation": "dlp", "sparsity": targets, "ppl": [70.0] * 12}
    figure = plots.sparsity_curve_figure(parse_sparsity_curve(sparse_runs.curve(series=[one])))
    assert len(figure.axes[0].get_xticks()) < 12


def test_long_names_do_not_widen_the_legend():
    def one(name):
        return {"allocation": name, "sparsity": [0.5], "ppl": [70.0]}

    names = ["runs/a/mine.json", "a_package.of_mine.with_modules:and_functions"]
    curve = parse_sparsity_curve(sparse_runs.curve(series=[one(name) for name in names]))
    texts = [t.get_text() for t in plots.sparsity_curve_figure(curve).legends[0].get_texts()]
    assert texts[:2] == ["mine.json", "…mine.with_modules:and_functions"]
