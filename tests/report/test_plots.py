import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from matplotlib.colors import same_color

from jprune.report import plots
from jprune.report.reading import parse_scores
from tests.report.conftest import DELTA, ERROR, perplexity_scores, run_json

REMOVED = frozenset({(1, "block"), (3, "block")})


def bars(figure):
    return {bar.get_gid(): bar for bar in figure.axes[0].patches if bar.get_gid()}


def test_bars_are_the_nll_differences_with_their_errors():
    data = perplexity_scores() | {"delta_nll": [0.25, *DELTA[1:]]}
    figure = plots.score_figure(parse_scores("s", data), REMOVED)
    found = bars(figure)
    heights = [found[name].get_height() for name in sorted(found)]
    assert sorted(found) == [
        "unit-0-block-protected", "unit-1-block-removed", "unit-2-block-kept",
        "unit-3-block-removed", "unit-4-block-kept", "unit-5-block-kept",
    ]  # fmt: skip
    cut = 1.45 * 0.3  # 0.9 is the only one above 2.5 times the next
    assert heights == pytest.approx([0.25, 0.02, 0.2, 0.021, 0.3, cut])
    assert [t.get_text() for t in figure.axes[0].texts if "▲" in t.get_text()] == ["▲ 0.900"]
    segments = [c.get_segments()[0] for c in figure.axes[0].collections]
    spans = {round(s[:, 0].mean()): s[:, 1] for s in segments}
    assert set(spans) == {0, 1, 2, 3, 4}
    for layer in (1, 2, 3, 4):
        low, high = DELTA[layer] - ERROR[layer], DELTA[layer] + ERROR[layer]
        np.testing.assert_allclose(spans[layer], [low, high])


def test_removed_units_have_a_cross_and_protected_ones_a_hatch():
    figure = plots.score_figure(parse_scores("s", perplexity_scores()), REMOVED)
    found = bars(figure)
    crosses = {round(t.xy[0]) for t in figure.axes[0].texts if t.get_text() == "×"}
    assert crosses == {1, 3}
    assert same_color(found["unit-1-block-removed"].get_facecolor(), plots.REMOVED["block"])
    assert same_color(found["unit-2-block-kept"].get_facecolor(), plots.KEPT["block"])
    assert found["unit-0-block-protected"].get_hatch()
    assert not found["unit-2-block-kept"].get_hatch()


def test_sublayers_stand_side_by_side_in_two_colours():
    units = [{"layer": i, "part": p} for i in range(3) for p in ("attention", "mlp")]
    data = {"criterion": "taylor", "granularity": "sublayer", "units": units,
            "scores": [1, 2, 3, 4, 5, None]}  # fmt: skip
    figure = plots.score_figure(parse_scores("s", data), frozenset({(1, "mlp")}))
    found = bars(figure)
    assert set(found) == {
        "unit-0-attention-kept", "unit-0-mlp-kept", "unit-1-attention-kept", "unit-1-mlp-removed",
        "unit-2-attention-kept",
    }  # fmt: skip
    attention, mlp = found["unit-0-attention-kept"], found["unit-0-mlp-kept"]
    assert attention.get_x() + attention.get_width() < mlp.get_x() + 0.05
    assert not same_color(attention.get_facecolor(), mlp.get_facecolor())
    assert found["unit-1-mlp-removed"].get_height() == 4


def test_the_curve_has_a_line_per_criterion_and_a_band_for_random():
    figure = plots.curve_figure(run_json()["figures"]["curve"], "perplexity", 2)
    axes = figure.axes[0]
    lines = {line.get_gid(): line for line in axes.lines if line.get_gid()}
    assert set(lines) == {"curve-perplexity", "curve-last", "curve-random"}
    assert list(lines["curve-random"].get_ydata()) == [66.125, 120.5, 410.0]
    assert list(lines["curve-perplexity"].get_xdata()) == [0, 1, 2]
    assert lines["curve-perplexity"].get_linewidth() > lines["curve-last"].get_linewidth()
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert {72.0, 88.0, 320.0, 4321.0} <= set(band)
    assert lines["curve-perplexity"].get_zorder() > lines["curve-last"].get_zorder()
    labels = [t.get_text() for t in axes.get_legend().get_texts()]
    assert "random (mean and range of 5 seeds)" in labels
    assert "this run: 2 removed" in labels


def test_many_lines_have_distinct_colours_and_their_legend_outside():
    names = ["perplexity", "greedy", "taylor", "magnitude", "influence", "angular", "last"]
    series = [{"criterion": n, "removed": [0, 1], "ppl": [60.0, 70.0 + i]}
              for i, n in enumerate(names)]  # fmt: skip
    figure = plots.curve_figure({"series": series}, "perplexity", 1)
    colours = {str(line.get_color()) for line in figure.axes[0].lines}
    assert len(colours) == len(names) + 1  # and the vertical line of this run
    assert figure.axes[0].get_legend() is None
    assert [t.get_text() for t in figure.legends[0].get_texts()] == [*names, "this run: 1 removed"]


@pytest.mark.parametrize(("top", "scale"), [(80.0, "linear"), (5000.0, "log")])
def test_a_wide_range_of_perplexity_gets_a_logarithmic_axis(top, scale):
    curve = {"series": [{"criterion": "last", "removed": [0, 1, 2], "ppl": [60.0, top, None]}]}
    assert plots.curve_figure(curve).axes[0].get_yscale() == scale


def test_angular_windows_mark_the_removed_one():
    data = {"criterion": "angular", "scores": [None] * 5, "n": 2, "order": [1, 2],
            "window_scores": [0.5, 0.125, 0.25, 0.375]}  # fmt: skip
    scores = parse_scores("s", data)
    lines = plots.window_figure(scores, frozenset({(1, "block"), (2, "block")})).axes[0].lines
    assert list(lines[0].get_ydata()) == [0.5, 0.125, 0.25, 0.375]
    assert lines[1].get_gid() == "window-1-removed"
    assert (lines[1].get_xdata()[0], lines[1].get_ydata()[0]) == (1, 0.125)
    # Two blocks that are not a window of the scores are not marked as one.
    apart = plots.window_figure(scores, frozenset({(1, "block"), (3, "block")}))
    assert len(apart.axes[0].lines) == 1


@pytest.mark.parametrize(
    "validation", [{"step": [0, 20], "loss": [5.0, 2.5]}, [5.0, None, 2.5], None]
)
def test_training_curves(validation):
    figure = plots.training_figure(
        {"step": [0, 10, 20], "loss": [4.5, 3.5, 2.0], "validation": validation}
    )
    lines = figure.axes[0].lines
    assert list(lines[0].get_ydata()) == [4.5, 3.5, 2.0]
    if validation is not None:
        assert list(lines[1].get_xdata()) == [0, 20] and list(lines[1].get_ydata()) == [5.0, 2.5]
    assert len(lines) == (1 if validation is None else 2)


def test_png_is_an_image_on_white():
    from matplotlib import image

    data = plots.png(plots.score_figure(parse_scores("s", perplexity_scores())))
    assert data.startswith(b"\x89PNG\r\n")
    import io

    pixels = image.imread(io.BytesIO(data))
    assert pixels.shape[1] == 1200
    np.testing.assert_allclose(pixels[0, 0, :3], 1.0)


def test_svg_follows_the_page_and_has_ids_of_its_own():
    def draw(name):
        return plots.svg(plots.score_figure(parse_scores("s", perplexity_scores()), REMOVED), name)

    text, other = draw("one"), draw("two")
    assert text == draw("one")  # the same bytes each time
    root = ET.fromstring(text)
    ids = {e.get("id") for e in root.iter() if e.get("id")}
    assert "one-unit-1-block-removed" in ids and "one-unit-2-block-kept" in ids
    assert not ids & {e.get("id") for e in ET.fromstring(other).iter()}
    references = re.findall(r"url\(#([^)]+)\)", text) + re.findall(r'href="#([^"]+)"', text)
    assert references and set(references) <= ids
    assert "currentColor" in text and "var(--grid)" in text
    assert plots.INK not in text and "#ffffff" not in text  # no ground of its own
    assert "Perplexity scores" in text and "Block index" in text  # text, not outlines
    assert "width" not in root.attrib  # the page decides


def test_names_with_dollar_signs_and_tags_are_drawn_as_they_are():
    data = perplexity_scores() | {"criterion": "mine:$\\frac$<b>&"}
    text = plots.svg(plots.score_figure(parse_scores("s", data)), "x")
    assert "Mine:$\\frac$<b>& scores ± standard error" in "".join(ET.fromstring(text).itertext())
