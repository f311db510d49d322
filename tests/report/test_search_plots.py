"""Figures of a search: their data as pure functions give them, and what is drawn of it."""

import math

import numpy as np
import pytest

from jprune.report import plots
from jprune.report.best_so_far import best_so_far, score_range
from jprune.report.front import front_panels, front_table
from jprune.report.searches import parse_search
from jprune.report.stitched import DROPPED, MERGED, TAKEN, UNUSED, factor_text, stitch_grid
from tests.report import search_runs


@pytest.fixture
def found():
    return parse_search(search_runs.run_json())


def several(count):
    """A search with so many objectives; on the front the values of trial i are i + 0, 1, 2, ..."""
    data = [f"d/{name}.jsonl@1/2" for name in "abcdefg"[:count]]
    points = [{"number": i, "values": [i + j for j in range(count)], "score": 1.0 + i}
              for i in (2, 1)]  # fmt: skip
    return parse_search(
        search_runs.run_json(
            search=search_runs.search(
                objectives=data, base=[0.5] * count, values=list(range(1, count + 1)), front=points
            )
        )
    )


def test_layers_are_taken_merged_or_dropped(found):
    grid = stitch_grid(found, 6)
    assert grid.names == ("base", "math", "code")
    t, m, d, u = TAKEN, MERGED, DROPPED, UNUSED
    np.testing.assert_array_equal(grid.states, [
        [u, d, u, t, d, u],
        [u, d, m, u, d, t],
        [t, d, m, u, d, u],
    ])  # fmt: skip
    n = np.nan
    np.testing.assert_array_equal(grid.factors, [
        [n, n, n, n, n, n],
        [n, n, 0.375, n, n, n],
        [n, n, 0.375, n, n, n],
    ])  # fmt: skip


def test_the_picture_has_a_cell_per_model_and_layer(found):
    axes = plots.stitched_figure(found, 6).axes[0]
    cells = {patch.get_gid(): patch for patch in axes.patches}
    assert len(cells) == 18
    assert {"layer-0-3-taken", "layer-1-2-merged", "layer-2-1-dropped", "layer-2-5-unused"} <= {
        *cells
    }
    colours = {gid.rpartition("-")[2]: cell.get_facecolor() for gid, cell in cells.items()}
    assert len(set(colours.values())) == 4
    texts = {(round(t.get_position()[0]), round(t.get_position()[1])): t.get_text()
             for t in axes.texts}  # fmt: skip
    assert texts == {(2, 1): ".38", (2, 2): ".38"} | {
        (x, y): "×" for x in (1, 4) for y in (0, 1, 2)
    }
    assert [label.get_text() for label in axes.get_yticklabels()] == ["base", "math", "code"]


@pytest.mark.parametrize(
    ("factor", "text"), [(1.0, "1"), (0.0, "0"), (0.5, ".5"), (0.374, ".37"), (0.004, "0")]
)
def test_factors_are_short(factor, text):
    assert factor_text(factor) == text


def test_lines_are_this_search_and_those_that_only_remove(found):
    own, *removal = best_so_far(found)
    assert own.is_result and own.is_thick and own.trials == tuple(range(1, 9))
    assert math.isnan(own.score[0]) and own.score[2:] == (1.5, 1.25, 1.125, 1.0625, 1.0625, 0.975)
    assert [(one.name, one.is_thick, one.is_result) for one in removal] == [
        ("removal alone, math", True, False),
        ("removal alone, base", False, False),
        ("removal alone, code", False, False),
    ]
    assert removal[0].score == (1.5, 1.5, 1.25, 1.25, 1.25, 1.125)


def test_the_best_search_that_only_removes_is_thick(found):
    axes = plots.best_so_far_figure(found).axes[0]
    lines = {line.get_gid(): line for line in axes.lines}
    widths = {gid: line.get_linewidth() for gid, line in lines.items()}
    thick = {"best-this_search__stitching", "best-removal_alone__math"}
    assert min(widths[gid] for gid in thick) > max(w for g, w in widths.items() if g not in thick)
    assert list(lines["best-removal_alone__code"].get_ydata()) == [1.875, *[1.5] * 5]
    assert all(
        line.get_drawstyle() == "steps-post" for g, line in lines.items() if g != "best-base"
    )
    assert set(lines["best-base"].get_ydata()) == {1.0}


def test_bad_first_trials_do_not_flatten_the_rest(found):
    def shown(*scores):
        search = search_runs.search(curve=search_runs.curve(*scores))
        run = search_runs.run_json(search=search, comparisons={})
        return score_range(best_so_far(parse_search(run)))

    low, high = shown(9.0, 1.25, 1.25, 1.25)
    assert low < 1.0 < 1.25 < high < 2.0
    low, high = shown(1.375, 1.25, 1.25, 1.25)
    assert low < 1.0 and 1.375 < high < 1.5
    low, high = shown(1.5, 0.5)
    assert low < 0.5 and high > 1.0
    low, high = shown(1.0, 1.0)
    assert low < 1.0 < high


def test_two_objectives_have_one_panel(found):
    (panel,) = front_panels(found)
    assert panel.names == ("gsm8k", "mbpp")
    assert panel.points == ((3.25, 6.0), (3.5, 5.25), (4.0, 5.125))
    assert (panel.chosen, panel.base) == ((3.5, 5.25), (4.0, 5.0))
    axes = plots.front_figure(found).axes[0]
    marks = {line.get_gid(): line for line in axes.lines}
    assert list(marks["front-0"].get_xdata()) == [3.25, 3.5, 4.0]
    assert (marks["chosen-0"].get_xdata()[0], marks["chosen-0"].get_ydata()[0]) == (3.5, 5.25)
    assert (marks["base-0"].get_xdata()[0], marks["base-0"].get_ydata()[0]) == (4.0, 5.0)
    assert axes.get_xlabel() == "NLL on gsm8k" and axes.get_ylabel() == "NLL on mbpp"


def test_three_objectives_have_a_panel_for_each_pair():
    panels = front_panels(several(3))
    assert [panel.names for panel in panels] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert panels[1].points == ((1.0, 3.0), (2.0, 4.0))
    assert panels[2].chosen == (2.0, 3.0)
    figure = plots.front_figure(several(3))
    assert [axes.get_ylabel() for axes in figure.axes] == ["NLL on b", "NLL on c", "NLL on c"]


@pytest.mark.parametrize(("count", "panels"), [(1, 0), (2, 1), (4, 6), (5, 10), (6, 0)])
def test_one_objective_and_more_than_five_have_no_panels(count, panels):
    assert len(front_panels(several(count))) == panels


def test_the_front_as_a_table_has_the_chosen_trial_first(found):
    table = front_table(found)
    assert table.columns == ("Trial", "NLL on gsm8k", "NLL on mbpp", "Mean ratio")
    assert table.rows == [
        ("5", "3.5000", "5.2500", "0.9750"),
        ("2", "4.0000", "5.1250", "1.0300"),
        ("3", "3.2500", "6.0000", "1.0500"),
        ("base", "4.0000", "5.0000", "1.0000"),
    ]


def test_a_long_front_is_cut():
    points = [{"number": i, "values": [5.0 + i, 5.0 - i / 10], "score": 2.0 + i} for i in range(25)]
    run = search_runs.run_json(search=search_runs.search(front=points))
    table = front_table(parse_search(run))
    assert len(table.rows) == 21 and "5 more are in search/result.json" in table.caption
