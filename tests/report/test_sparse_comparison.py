"""Sparse runs beside each other and beside depth runs: figures computed by hand."""

import csv
import io

import pytest

from jprune.core.errors import InputError
from jprune.report import compare, compare_curves, render_comparison, render_curves
from jprune.report.comparison_tables import comparison_table
from jprune.report.curve_comparison import curve_values, curves_table
from tests.report import sparse_runs
from tests.report.conftest import figure, protocol, write_files

DATA = "wiki.test.raw"


@pytest.fixture
def folders(tmp_path):
    """Writes runs; gives their workdirs W1, W2, ..."""

    def make(*runs):
        names = [str(tmp_path / f"W{i}") for i in range(1, len(runs) + 1)]
        for name, files in zip(names, runs, strict=True):
            write_files(type(tmp_path)(name), files)
        return names

    return make


def sparse(after=180.0, seed=0, **changes):
    config = {key: changes.pop(key) for key in ("dlp_options",) if key in changes}
    ppl = changes.pop("curve", None)
    return sparse_runs.sparse_files(
        sparse_runs.masks(**changes), ppl, before=60.0, after=after, seed=seed, **config
    )


def depth(after=90.0):
    files = sparse_runs.sparse_files({}, before=60.0, after=after)
    files["config.json"]["config"] = {
        "job": "depth", "criterion": "taylor", "granularity": "block", "seed": 0,
    }  # fmt: skip
    run = files["run.json"]
    run["removed"] = [{"layer": 2, "part": "block"}]
    run["model"]["parameters"]["after"] = 12_960_000
    return files


def rows(comparison):
    table = comparison_table(comparison)
    return [dict(zip(table.columns, row, strict=True)) for row in table.rows]


def test_seeds_of_a_sparse_run_are_one_row(folders):
    workdirs = folders(
        sparse(160.0, 0), sparse(180.0, 1, achieved=0.6998), sparse(120.0, allocation="owl")
    )
    found = compare(workdirs)
    first, second = rows(found)
    # Standard deviation of 160, 180: sqrt((10^2 + 10^2) / 1) = 14.14; retained 37.5 and 33.3.
    assert first == {
        "Run": "W{1,2}", "Model": "tiny-llama", "Criterion": "wanda", "Allocation": "dlp",
        "Pattern": "unstructured", "Target (%)": "70", "Sparsity (%)": "69.97", "Seeds": 2,
        "Parameters": "16.2M", "Left": "100.0%", "PPL before": "60.00", "PPL": "170.0 ± 14.1",
        "Retained (%)": "35.4 ± 2.9",
    }  # fmt: skip
    assert (second["Allocation"], second["PPL"], second["Retained (%)"]) == ("owl", "120.0", "50.0")
    spread = found.rows[0].sparsity
    assert spread.mean == pytest.approx((0.69962 + 0.6998) / 2) and spread.n == 2
    caption = comparison_table(found).caption
    assert "those that are zero, which count as parameters left." in caption


def test_curve_keys_and_offload_do_not_part_seeds(folders):
    one, two = sparse(seed=0), sparse(seed=1)
    two["config.json"]["config"] |= {"curve_sparsity": [0.5], "offload": "all"}
    assert len(compare(folders(one, two)).rows) == 1


def test_further_settings_are_shown_where_they_differ(folders):
    one, two = sparse(dlp_options={"alpha": 0.1}), sparse(dlp_options={"alpha": 0.2})
    found = rows(compare(folders(one, two)))
    assert [row["Settings"] for row in found] == [
        'dlp_options {"alpha": 0.1}', 'dlp_options {"alpha": 0.2}',
    ]  # fmt: skip
    other = sparse(allocation="owl", dlp_options={"alpha": 0.1})
    other["config.json"]["config"] |= {"mesh": "data:2", "curve_windows": 9}
    same = rows(compare(folders(one, other)))
    assert "Settings" not in same[0]


def test_depth_and_sparse_runs_stand_in_one_table(folders):
    width = sparse_runs.sparse_files(sparse_runs.widths(), before=60.0, after=75.0)
    found = compare(folders(depth(), sparse(), width))
    first, second, third = rows(found)
    keys = ("Criterion", "Removed", "Sparsity (%)", "Left", "Retained (%)")
    assert [first[k] for k in keys] == ["taylor", "1 of 4 blocks", None, "80.0%", "66.7"]
    assert [second[k] for k in keys] == ["wanda", None, "69.96", "100.0%", "33.3"]
    assert [third[k] for k in keys] == ["width", None, "19.50", "90.2%", "80.0"]
    assert (first["Granularity"], second["Granularity"]) == ("block", None)
    assert "those that are zero, which count as parameters left; by width, those that are" in (
        comparison_table(found).caption
    )


def test_depth_runs_alone_have_no_columns_of_sparsity(folders):
    found = compare(folders(depth()))
    assert not {"Allocation", "Pattern", "Target (%)", "Sparsity (%)"} & set(rows(found)[0])
    assert "sparsity" not in render_comparison(found, "csv").lower()
    assert "Sparsity" not in comparison_table(found).caption


def test_csv_has_the_sparsity_in_full(folders):
    width = sparse_runs.sparse_files(sparse_runs.widths(), before=60.0, after=75.0)
    found = compare(folders(sparse(seed=0), sparse(seed=1, achieved=0.7), width, depth()))
    lines = list(csv.DictReader(io.StringIO(render_comparison(found, "csv"))))
    first, second, third = lines
    assert first["criterion"] == "wanda" and first["allocation"] == "dlp"
    assert float(first["sparsity"]) == (0.69962 + 0.7) / 2 and first["sparsity_target"] == "0.7"
    assert float(first["sparsity_deviation"]) == pytest.approx(0.00038 / 2**0.5)
    assert first["bytes_compressed"] == "15100000" and first["bytes_unpadded"] == ""
    assert second["bytes_unpadded"] == "3250000" and second["bytes_compressed"] == ""
    assert (second["sparse_zeros"], second["sparse_weights"]) == ("195000", "1000000")
    assert third["sparsity"] == "" and third["removed"] == "1 of 4 blocks"


def test_a_pretrain_run_is_of_another_kind(folders):
    other = sparse()
    other["config.json"]["config"]["job"] = "pretrain"
    with pytest.raises(InputError, match="a pretrain run; a table has runs of one kind, or of dep"):
        compare(folders(sparse(), other))


def test_perplexities_without_bound_do_not_stop_the_table(folders):
    first, second = sparse(seed=0), sparse(seed=1)
    second["run.json"]["figures"]["after"]["perplexity"] = [figure(float("inf"), 900.0)]
    assert rows(compare(folders(first, second)))[0]["PPL"] == "inf ± nan"


# Curves


def curve(uniform, dlp, **changes):
    """A curve at 50% and 70% with these perplexities."""

    def series(allocation, ppl):
        achieved = [0.4999, 0.6998]
        return {"allocation": allocation, "sparsity": [0.5, 0.7], "achieved": achieved, "ppl": ppl}

    return sparse_runs.curve(series=[series("uniform", uniform), series("dlp", dlp)], **changes)


def test_curves_of_seeds_have_mean_and_spread(folders):
    found = compare_curves(
        folders(
            sparse(seed=0, curve=curve([70.0, 900.0], [60.0, 400.0])),
            sparse(seed=1, curve=curve([74.0, 700.0], [60.0, 500.0])),
        )
    )
    table = curves_table(found)
    assert table.columns == ("Sparsity", "uniform", "dlp")
    assert table.rows == [
        ("0%", "55.25", "55.25"),
        ("50%", "72.00 ± 2.83", "60.00 ± 0.00"),  # sqrt(2^2 + 2^2)
        ("70%", "800.0 ± 141.4", "450.0 ± 70.7"),
    ]
    assert table.caption.splitlines() == [
        "PPL on wiki.test.raw: 64 windows of 128 tokens, joined with '\\n\\n', BOS first, float32, "
        "per token.",
        "Pruned by wanda, unstructured.",
        "0%: the unpruned model.",
        "With several seeds: mean ± standard deviation over them.",
    ]


def test_curves_of_criteria_stand_side_by_side(folders):
    gpt = curve([65.0, 300.0], [64.0, 200.0], criterion="sparsegpt")
    found = compare_curves(
        folders(
            sparse(curve=curve([70.0, 900.0], [60.0, 400.0])),
            sparse(criterion="sparsegpt", curve=gpt),
        )
    )
    table = curves_table(found)
    assert table.columns[1:] == ("wanda uniform", "wanda dlp", "sparsegpt uniform", "sparsegpt dlp")
    assert table.rows[2] == ("70%", "900.0", "400.0", "300.0", "200.0")
    assert "Pruned by" not in table.caption


def test_curves_are_named_after_patterns_or_runs_where_these_tell_them_apart(folders):
    plain, paired = curve([1.0, 2.0], [3.0, 4.0]), curve([1.0, 2.0], [3.0, 4.0], pattern="2:4")
    first = sparse(curve=plain)
    found = compare_curves(folders(first, sparse(pattern="2:4", curve=paired)))
    assert [c.name for c in found.columns][::2] == ["wanda, unstructured uniform",
                                                    "wanda, 2:4 uniform"]  # fmt: skip
    found = compare_curves(folders(first, sparse(allocation="owl", curve=plain)))
    assert [c.name for c in found.columns] == ["W1 uniform", "W1 dlp", "W2 uniform", "W2 dlp"]
    seeds = folders(first, sparse(seed=1, curve=plain))
    assert [c.name for c in compare_curves(seeds, per_run=True).columns][2] == "W2 uniform"


def test_points_that_not_all_seeds_have_are_left_out(folders):
    one, two = curve([70.0, 900.0], [60.0, 400.0]), curve([74.0, None], [60.0, 500.0])
    del two["series"][1]
    table = curves_table(compare_curves(folders(sparse(curve=one), sparse(seed=1, curve=two))))
    assert table.columns == ("Sparsity", "uniform")
    assert table.rows[1:] == [("50%", "72.00 ± 2.83")]
    assert "What only some of the seeds measured is left out." in table.caption


def test_curves_as_csv_and_markdown(folders):
    found = compare_curves(
        folders(
            sparse(seed=0, curve=curve([70.0, 900.0], [60.0, 1e3 / 3])),
            sparse(seed=3, curve=curve([74.0, 700.0], [60.0, 500.0])),
        )
    )
    lines = list(csv.DictReader(io.StringIO(render_curves(found, "csv"))))
    assert [(line["sparsity"], line["allocation"]) for line in lines] == [
        ("0.5", "uniform"), ("0.7", "uniform"), ("0.5", "dlp"), ("0.7", "dlp"),
    ]  # fmt: skip
    assert float(lines[3]["ppl"]) == (1e3 / 3 + 500.0) / 2
    assert float(lines[3]["achieved"]) == 0.6998 and lines[3]["seeds"] == "0 3"
    assert float(lines[0]["ppl_dense"]) == 55.25
    assert [value["runs"] for value in curve_values(found)] == [2] * 4
    assert render_curves(found, "md").startswith("| Sparsity | uniform | dlp |\n| ---: |")
    assert render_curves(found, "tex").splitlines()[-1].startswith("% With several seeds")


def without_curve(files):
    files["run.json"]["figures"].pop("sparsity_curve", None)
    return files


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (depth(), "sparse runs side by side, and .*W2 is a depth run; give one workdir"),
        (without_curve(sparse(seed=1)), "W2 has no curve; see its key curve_windows"),
        (sparse(seed=1, curve=curve([1.0, 2.0], [1.0, 2.0], data="ptb")),
         "W1 is on wiki.test.raw, that of .*W2 on ptb; a table compares"),
        (sparse(seed=1, curve=curve([1.0, 2.0], [1.0, 2.0], protocol=protocol(num_windows=9))),
         "different protocols on wiki.test.raw: num_windows 64 and 9"),
        (sparse(seed=0, curve=curve([1.0, 2.0], [1.0, 2.0])), "same run with the same seed"),
        (sparse(seed=1, curve=curve([None, None], [None, None])), "in common; give --per_run"),
    ],
)  # fmt: skip
def test_curves_that_do_not_compare(folders, second, message):
    with pytest.raises(InputError, match=message):
        compare_curves(folders(sparse(curve=curve([70.0, 900.0], [60.0, 400.0])), second))


def test_curves_of_different_models_are_said_to_be(folders):
    other = sparse(curve=curve([1.0, 2.0], [1.0, 2.0], dense=None))
    other["run.json"]["model"]["sha256"] = "beef"
    table = curves_table(
        compare_curves(folders(sparse(curve=curve([70.0, 900.0], [60.0, 400.0])), other))
    )
    assert "The models differ" in table.caption
    assert table.rows[0] == ("0%", "55.25", "55.25", "–", "–")
