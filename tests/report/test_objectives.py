"""The models of a search side by side: which are shown, their figures, several runs."""

import csv
import io
import math

import numpy as np
import pytest

from jprune.core.errors import InputError
from jprune.report.objective_comparison import (
    compare_objectives,
    comparison_table,
    render_objectives,
)
from jprune.report.objective_tables import run_objectives_table
from jprune.report.objectives import measured_models, perplexity, reference_of, report_data
from jprune.report.reading import read_run
from tests.report import search_runs
from tests.report.conftest import write_files
from tests.report.search_runs import DATA, NLL

SHOWN = ("before", "math", "code", "depth-code", "removal-base", "merge-depth", "after")
NAMES = [
    "base (base)", "math", "code", "best depth pruning (of code)", "best removal search (of base)",
    "depth pruning of the best merge (ties, density 0.2, factor 1)",
    "stitched model (by evolution)",
]  # fmt: skip


@pytest.fixture
def folders(tmp_path):
    """Writes workdirs with names and files; gives their paths."""

    def make(**files):
        return [write_files(tmp_path / name, content) for name, content in files.items()]

    return make


@pytest.fixture
def run(make):
    return read_run(make(search_runs.search_files()))


def models_of(run):
    return measured_models(run, report_data(run))


def changed(**nll):
    return search_runs.run_json(NLL | {k.replace("_", "-"): v for k, v in nll.items()})


def test_of_each_kind_the_best_by_the_mean_is_shown(run):
    assert report_data(run) == DATA
    models = models_of(run)
    assert [model.label for model in models] == NAMES
    assert [model.removed for model in models] == [0, 0, 0, 2, 2, 2, 2]
    for model, phase in zip(models, SHOWN, strict=True):
        assert tuple(model.nll.values()) == NLL[phase]
        assert model.mean == np.mean(NLL[phase])
        assert model.mean_error == pytest.approx(math.sqrt(2 * 0.01**2) / 2)
    assert reference_of(models).name == "math"
    assert [reference_of(models, one).name for one in DATA] == ["math", "code"]


def test_every_column_is_retained_of_the_variant_that_is_best_in_it(run):
    table = run_objectives_table(run)
    assert table.columns == (
        "Model", "Removed", "gsm8k NLL", "PPL", "%", "mbpp NLL", "PPL", "%", "mean NLL", "PPL", "%",
    )  # fmt: skip
    values = np.array([[*NLL[phase], np.mean(NLL[phase])] for phase in SHOWN])
    best = np.array([3.0, 4.0, 4.25])  # of math, code, and the mean of math
    for row, nll, name in zip(table.rows, values, NAMES, strict=True):
        assert row[0] == name
        assert row[2::3] == tuple(f"{one:.3f}" for one in nll)
        np.testing.assert_allclose([float(x) for x in row[3::3]], np.exp(nll), rtol=1e-3)
        shares = 100 * np.exp(best) / np.exp(nll)
        np.testing.assert_allclose([float(x) for x in row[4::3]], shares, atol=0.051)
    assert table.rows[1][4] == table.rows[2][7] == table.rows[1][10] == "100.0"
    assert "retained of the variant that is best in that column: 100 × its PPL / PPL" in (
        table.caption
    )
    assert f"NLL in nats per token on gsm8k ({DATA[0]}), mbpp ({DATA[1]}): 256 wi" in table.caption


def test_without_variants_it_is_retained_of_the_base(make):
    run = read_run(make(search_runs.removal_files()))
    table = run_objectives_table(run)
    assert table.columns == ("Model", "Removed", "gsm8k NLL", "PPL", "%")
    shares = [f"{100 * math.exp(4.0 - nll):.1f}" for nll in (4.0, 4.75, 3.5)]
    assert [(row[0], row[4]) for row in table.rows] == list(
        zip(
            ["base (base)", "best depth pruning (of base)", "searched removal (by evolution)"],
            shares,
            strict=True,
        )
    )
    assert "retained of the unpruned base" in table.caption and "mean:" not in table.caption


def test_any_further_comparison_is_a_row_with_a_readable_name(make):
    files = search_runs.search_files(changed(width_pruned=(4.0, 6.0)))
    files["run.json"]["comparisons"]["width-pruned"] = search_runs.compared(1, 2)
    rows = run_objectives_table(read_run(make(files))).rows
    (row,) = [row for row in rows if row[0] == "width pruned"]
    assert row[1:4] == (2, "4.000", "54.60")


def test_models_measured_otherwise_or_not_on_all_data_are_left_out(make):
    run = changed()
    run["figures"]["math"]["perplexity"].pop()
    run["figures"]["merge-depth"]["perplexity"][0]["protocol"]["window_length"] = 8
    models = models_of(read_run(make(search_runs.search_files(run))))
    assert [model.key for model in models] == ["before", "code", "depth", "removal", "after"]


def test_the_nll_may_have_to_come_from_the_ppl(make):
    run = changed()
    for entry in run["figures"]["after"]["perplexity"]:
        entry["nll"] = None
    result = models_of(read_run(make(search_runs.search_files(run))))[-1]
    assert list(result.nll.values()) == pytest.approx(NLL["after"])


def test_other_runs_have_no_such_table(make, files):
    assert run_objectives_table(read_run(make(files))) is None


def test_an_nll_beyond_floats_is_no_error():
    assert perplexity(1e4) == math.inf


# Several runs.


def test_seeds_are_one_row_with_mean_and_spread(folders):
    other = changed(after=(3.75, 5.5), depth_code=(5.5, 5.75))  # now that of math is the best
    paths = folders(a=search_runs.search_files(), b=search_runs.search_files(other, seed=1))
    comparison = compare_objectives(paths)
    assert [row.name for row in comparison.rows] == [
        *NAMES[:3], "best depth pruning (of code, math)", *NAMES[4:],
    ]  # fmt: skip
    row = comparison.rows[-1].figures[DATA[0]]
    assert (row.nll.mean, row.nll.n) == (3.625, 2)
    assert row.nll.deviation == pytest.approx(np.std([3.5, 3.75], ddof=1))
    shares = 100 * np.exp(3.0 - np.array([3.5, 3.75]))
    assert row.retained.mean == pytest.approx(shares.mean())
    assert row.retained.deviation == pytest.approx(np.std(shares, ddof=1))
    table = comparison_table(comparison)
    assert table.rows[-1][2] == "3.625 ± 0.177" and table.columns[0] == "Model"
    assert "mean ± standard deviation" in table.caption
    # Depth pruning of code in the one, of math in the other.
    assert table.rows[3][2] == f"{(5.0 + 4.5) / 2:.3f} ± {np.std([5.0, 4.5], ddof=1):.3f}"


def test_other_searches_have_rows_of_their_own(folders):
    other = changed(after=(3.75, 5.5))
    del other["comparisons"]["merge-depth"]
    paths = folders(a=search_runs.search_files(), b=search_runs.search_files(other, sampler="tpe"))
    table = comparison_table(compare_objectives(paths))
    assert table.columns[:2] == ("Run", "Model")
    assert [row[0] for row in table.rows] == ["a"] * 7 + ["b"] * 6
    assert table.rows[-1][1] == "stitched model (by tpe)"
    paired = compare_objectives(paths, per_run=True)
    assert len(paired.rows) == 13 and not paired.models_left_out


def test_models_that_only_some_seeds_have_are_left_out(folders):
    other = changed()
    del other["comparisons"]["merge-depth"]
    paths = folders(a=search_runs.search_files(), b=search_runs.search_files(other, seed=1))
    comparison = compare_objectives(paths)
    assert len(comparison.rows) == 6
    assert (
        "Models that only some of the seeds have are left" in comparison_table(comparison).caption
    )


def test_csv_is_in_full(folders):
    (path,) = folders(a=search_runs.search_files())
    rows = list(csv.DictReader(io.StringIO(render_objectives(compare_objectives([path]), "csv"))))
    assert [row["model"] for row in rows] == NAMES
    last = rows[-1]
    assert last["run"] == "a" and last["kind"] == "after" and last["removed"] == "2"
    assert float(last["mean.ppl"]) == pytest.approx(math.exp(4.375), rel=1e-12)
    assert float(last[f"{DATA[1]}.retained_percent"]) == pytest.approx(100 * math.exp(4 - 5.25))
    assert last[f"{DATA[1]}.reference"] == "code" and last["mean.reference"] == "math"


def test_runs_of_other_kinds_and_protocols_are_refused(folders, files):
    paths = folders(a=search_runs.search_files(), b=files)
    with pytest.raises(InputError, match="--table=objectives is of searches, and .*b is a depth r"):
        compare_objectives(paths)
    other = changed()
    for figure in other["figures"].values():
        for entry in figure["perplexity"]:
            entry["protocol"]["bos"] = "every"
    with pytest.raises(InputError, match="different protocols"):
        compare_objectives([paths[0], *folders(c=search_runs.search_files(other, seed=1))])
