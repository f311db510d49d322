"""Several runs in one table: figures computed by hand, and runs that do not compare."""

import copy
import csv
import io
import json

import pytest

from jprune.core.errors import InputError
from jprune.report import compare, render_comparison
from jprune.report.comparison_tables import comparison_table, comparison_values
from tests.report.conftest import figure, write_files

WIKI = "data/wiki.txt"
DIFFER = "The models differ: their perplexities compare only if their tokenizers are the same."


def run(before=50.0, after=80.0, seed=0, data=(WIKI,), **config):
    """The files of a run; PPL in all data sources alike."""

    def figures(ppl):
        return {"perplexity": [figure(ppl, 4.0, name) for name in data]}

    return {
        "config.json": {
            "name": "shortened_llama:ppl",
            "config": {"job": "depth", "criterion": "taylor", "granularity": "block", "seed": seed}
            | config,
        },
        "run.json": {
            "stages": [{"name": "score", "status": "done"}, {"name": "report", "status": "cached"}],
            "figures": {"before": figures(before), "after": figures(after)},
            "removed": [{"layer": 3, "part": "block"}],
            "model": {
                "name": "tiny", "sha256": "c0ffee",
                "layers": {"before": 6, "after": 5},
                "parameters": {"before": 1000, "after": 850},
            },
        },
    }  # fmt: skip


@pytest.fixture
def folders(tmp_path):
    """Writes runs; gives their workdirs W1, W2, ..."""

    def make(*runs):
        names = [str(tmp_path / f"W{i}") for i in range(1, len(runs) + 1)]
        for name, files in zip(names, runs, strict=True):
            write_files(type(tmp_path)(name), files)
        return names

    return make


def rows(comparison):
    table = comparison_table(comparison)
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def test_one_row_per_run(folders):
    found = compare(folders(run(after=80.0, num_windows=8), run(after=62.5, num_windows=32)))
    first, second = rows(found)
    assert first == {
        "Run": "W1", "Model": "tiny", "Criterion": "taylor", "Granularity": "block",
        "Settings": "num_windows 8", "Removed": "1 of 6 blocks", "Parameters": "850",
        "Left": "85.0%", "PPL before": "50.00", "PPL": "80.00", "Retained (%)": "62.5",
    }  # fmt: skip
    assert (second["Run"], second["PPL"], second["Retained (%)"]) == ("W2", "62.50", "80.0")
    caption = comparison_table(found).caption
    assert "wiki.txt: 256 windows of 128 tokens" in caption and "unpruned model" in caption


def test_seeds_are_one_row_with_mean_and_spread(folders):
    workdirs = folders(*(run(after=x, seed=i) for i, x in enumerate((60.0, 64.0, 71.0))))
    (row,) = compare(workdirs).rows
    after = row.figures[WIKI].after
    assert after.mean == pytest.approx(65)
    assert after.deviation == pytest.approx(((25 + 1 + 36) / 2) ** 0.5)
    retained = row.figures[WIKI].retained
    assert retained.mean == pytest.approx((50 / 60 + 50 / 64 + 50 / 71) / 3 * 100)
    (shown,) = rows(compare(workdirs))
    assert (shown["Run"], shown["Seeds"], shown["PPL"]) == ("W{1,2,3}", 3, "65.00 ± 5.57")
    assert shown["PPL before"] == "50.00"
    each = rows(compare(workdirs, per_run=True))
    assert [r["PPL"] for r in each] == ["60.00", "64.00", "71.00"] and "Seeds" not in each[0]


def test_what_does_not_change_the_figures_does_not_part_seeds(folders):
    one, two = run(seed=0, curve_windows=0, mesh=None), run(seed=1, curve_windows=9, mesh="data:2")
    assert len(compare(folders(one, two)).rows) == 1
    assert len(compare(folders(one, run(seed=1, num_windows=9))).rows) == 2


def test_reference_is_a_run_of_the_table_or_another(folders):
    first, second, third = folders(run(after=60.0), run(after=75.0, remove=2), run(after=90.0))
    found = compare([first, second], reference=first)
    assert [r["Retained (%)"] for r in rows(found)] == ["100.0", "80.0"]
    assert f"100 × PPL of {first} / PPL" in comparison_table(found).caption
    found = compare([first, second], reference=third)
    assert [r["Retained (%)"] for r in rows(found)] == ["150.0", "120.0"]


def test_csv_has_full_precision(folders):
    a, b = run(after=200 / 3, seed=0, data=(WIKI, "ptb")), run(after=70.0, seed=1)
    found = compare(folders(a, b))
    (line,) = csv.DictReader(io.StringIO(render_comparison(found, "csv")))
    assert float(line[f"{WIKI}.ppl"]) == (200 / 3 + 70) / 2
    assert float(line[f"{WIKI}.nll_nats_standard_error"]) == 0.0125
    assert float(line["parameters_ratio"]) == 0.85 and line["parameters"] == "850"
    assert line["seeds"] == "0 1" and line["removed_units"] == "3 | 3"
    assert json.loads(line[f"{WIKI}.protocol"])["window_length"] == 128
    assert not any(key.startswith("ptb") for key in line)
    assert "left out: ptb" in comparison_table(found).caption
    assert comparison_values(found)[0]["runs"] == 2


def test_markdown_and_latex(folders):
    seeds = [run(after=60.0, seed=0), run(after=64.0, seed=1)]
    found = compare(folders(*seeds))
    head, rule, row, blank, *_ = render_comparison(found, "md").splitlines()
    assert head.startswith("| Run |") and rule.startswith("| :--- |") and blank == ""
    assert "62.00 ± 2.83" in row
    latex = render_comparison(found, "tex")
    assert r"W\{1,2\} & tiny & taylor" in latex and r"62.00 $\pm$ 2.83" in latex
    assert r"Retained (\%)" in latex and r"\toprule" in latex
    tail = latex.split(r"\end{tabular}" + "\n")[1]
    assert all(line.startswith("% ") for line in tail.splitlines())


def test_models_that_differ_are_said_to(folders):
    other = run(before=20.0, after=25.0)
    other["run.json"]["model"] |= {"name": "other", "sha256": "beef"}
    found = compare(folders(run(), other))
    assert [r["Model"] for r in rows(found)] == ["tiny", "other"]
    assert [r["Retained (%)"] for r in rows(found)] == ["62.5", "80.0"]
    assert DIFFER in comparison_table(found).caption


def test_a_reference_of_another_model_is_said_to_be_one(folders):
    other = run(before=20.0, after=25.0)
    other["run.json"]["model"] |= {"name": "other", "sha256": "beef"}
    first, second, third = folders(run(), run(remove=2), other)
    assert DIFFER in comparison_table(compare([first, second], reference=third)).caption
    assert DIFFER not in comparison_table(compare([first, second], reference=first)).caption


def _protocol(**changes):
    files = run(remove=2)
    for when in ("before", "after"):
        files["run.json"]["figures"][when]["perplexity"][0]["protocol"] |= changes
    return files


def _record(content):
    return {"stages/evaluate-after.json": {"keys": {"eval": [WIKI], "data": [content]}}}


def _open():
    files = copy.deepcopy(run(remove=2))
    files["run.json"]["stages"][1]["status"] = "pending"
    return files


def _empty():
    files = run(remove=2)
    files["run.json"]["figures"] = {}
    return files


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (run(), _protocol(window_length=2048),
         r"W1 and \S*W2 were .* protocols on data/wiki.txt: window_length 128 and 2048; a tab"),
        (run(), _protocol(dtype="bfloat16"), "dtype 'float32' and 'bfloat16'"),
        (run() | _record("a"), run(remove=2) | _record("b"), "the content of data/wiki.txt is not"),
        (run(), run(data=("ptb",)), r"no evaluation data in common \(.*W1: data/wiki.txt; .*: ptb"),
        (run(), _open(), r"W2 is not finished: its stage report is pending; repeat its `jprune ru"),
        (run(), _empty(), "W2 has no perplexity to compare"),
        (run(), run(job="pretrain"), "W1 is a depth run and .*W2 a pretrain run"),
        (run(), run(), r"the same run with the same seed \(0\), .*leave one out, or give --per"),
        (run(), {"notes.txt": "x"}, "W2 has no run.json: it is not a workdir"),
    ],
)  # fmt: skip
def test_runs_that_do_not_compare(folders, first, second, message):
    with pytest.raises(InputError, match=message):
        compare(folders(first, second))


def test_a_reference_is_measured_like_the_rest(folders):
    first, second = folders(run(), _protocol(bos="none"))
    with pytest.raises(InputError, match="bos 'first' and 'none'"):
        compare([first], reference=second)


def test_a_folder_given_twice(folders):
    (one,) = folders(run())
    with pytest.raises(InputError, match="W1 and .*W1/ are the same folder; give it once"):
        compare([one, one + "/"])
