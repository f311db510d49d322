"""The page of a search; every figure is computed from the fixture."""

import math

from jprune.report import write_report
from jprune.report.reading import read_run
from jprune.report.sections import method_text, summary_table
from tests.report import search_runs
from tests.report.conftest import perplexity_scores
from tests.report.parsed import report


def headings(page):
    return [title for title in (
        "The result of the search", "Best so far", "Pareto front", "Scores", "What was removed",
        "Evaluation",
    ) if title in page.words]  # fmt: skip


def test_a_stitched_model_has_all_parts_in_order(make):
    workdir = make(search_runs.search_files())
    page = report(workdir)
    assert headings(page) == [
        "The result of the search", "Best so far", "Pareto front", "What was removed", "Evaluation",
    ]  # fmt: skip
    order = [page.text.index(words) for words in headings(page)]
    assert order == sorted(order)
    names = sorted(path.name for path in (workdir / "plots").iterdir())
    assert names == ["best.png", "front.png", "stitched.png"]
    assert "At this size it beats all that it is set beside" in page.text
    rows = page.table("Model", "Removed", "gsm8k NLL")
    assert rows[-1][:3] == ["stitched model (by evolution)", "2", "3.500"]
    assert rows[-1][-2:] == [f"{math.exp(4.375):.2f}", f"{100 * math.exp(4.25 - 4.375):.1f}"]
    assert page.table("Trial", "NLL on gsm8k")[0][0] == "5"


def test_the_figures_are_in_the_page_as_text(make):
    page = report(make(search_runs.search_files()))
    ids = {value for _, name, value in page.attributes if name == "id"}
    assert any(one.endswith("layer-1-2-merged") for one in ids)
    assert any(one.endswith("best-removal_alone__math") for one in ids)
    assert any(one.endswith("chosen-0") for one in ids)
    assert "taken from this model alone" in page.text


def test_the_headline_is_of_the_search_and_the_mean(make):
    run = read_run(make(search_runs.search_files()))
    page = report(make(search_runs.search_files()))
    assert method_text(run).startswith(
        "gptailor: Stitched from 2 variants and the base, evolution, 8 trials, recipe stitch."
    )
    before, after = f"{math.exp(4.5):.2f}", f"{math.exp(4.375):.2f}"
    assert f"Perplexity {before} → {after} exp of the mean NLL on gsm8k, mbpp; 256 w" in page.text
    table = summary_table(run)
    assert dict(zip(table.columns, table.rows[0], strict=True)) == {
        "Run": "W", "Search": "evolution", "Trials": 8, "Variants": 2,
        "Removed": "2 of 6 blocks", "Parameters": "4.00K", "Left": "66.7%",
        "PPL before": before, "PPL after": after,
    }  # fmt: skip


def test_removal_alone_has_the_strip_of_what_is_gone(make):
    workdir = make(search_runs.removal_files())
    page = report(workdir)
    assert headings(page) == [
        "The result of the search", "Best so far", "What was removed", "Evaluation",
    ]  # fmt: skip
    assert [path.name for path in (workdir / "plots").iterdir()] == ["best.png"]
    gone = [value for tag, name, value in page.attributes if (tag, name) == ("span", "title")]
    assert [tip for tip in gone if "removed" in tip] == ["block 1: removed", "block 4: removed"]
    assert "The best removes 2 units." in page.text
    assert method_text(read_run(workdir)).startswith("gptailor: Removal by a search, evolution")


def test_scores_of_every_model_are_below(make):
    files = search_runs.search_files()
    files |= {f"scores/{name}.json": perplexity_scores() for name in ("base", "math")}
    page = report(make(files))
    assert "Of the units of base" in page.text and "Of the units of math" in page.text
    assert "Scores" in headings(page)
    rows = page.table("Original index", "Part")
    assert rows == [["1", "block"], ["4", "block"]]  # none of the scores decided


def test_a_search_on_its_way_has_a_page(make):
    files = search_runs.search_files()
    del files["run.json"]["search"]
    files["run.json"] |= {"removed": [], "comparisons": {}}
    files["run.json"]["figures"] = {"before": files["run.json"]["figures"]["before"]}
    workdir = make(files)
    assert write_report(workdir).plots == ()
    assert headings(report(workdir)) == ["Evaluation"]


def test_a_finished_search_before_its_result_is_evaluated(make):
    files = search_runs.search_files()
    figures = files["run.json"]["figures"]
    files["run.json"]["figures"] = {"before": figures["before"]}
    page = report(make(files))
    assert "The best drops 2 of 6 layers" in page.text and "At this size" not in page.text
