"""The page of a sparse run; every figure is computed from the fixture."""

import pytest

from jprune.report import parse_sparsity, sparsity_notes, write_report
from jprune.report.reading import read_run
from jprune.report.sections import method_text, summary_table
from tests.report import sparse_runs
from tests.report.parsed import report
from tests.report.sparse_runs import ATTENTION, DENSITY, MLP

HONEST = "they make the model neither smaller in memory nor faster on GPU or TPU today."
HARDWARE = "Some GPUs have hardware for the pattern 2:4"


def patterned(pattern, *of_blocks):
    """Masks of N:M, with the pattern of each block."""
    data = sparse_runs.masks(pattern=pattern)
    for block, own in zip(data["blocks"], of_blocks, strict=False):
        block["pattern"] = own
    return data


def test_the_headline_has_the_sparsity_and_how_it_came_about(make):
    page = report(make(sparse_runs.sparse_files()))
    for words in (
        "Sparsity 69.96% target 70%; wanda, dlp allocation, unstructured",
        "sparse:dlp: Sparsity 70% by wanda, dlp allocation, unstructured, recipe sparse_weights.",
        "65.17 → 180.5", "16.2M weights 32.4 MB",
    ):  # fmt: skip
        assert words in page.text, words
    assert "Removed" not in page.text


def test_masks_are_said_to_save_nothing_and_what_they_could(make):
    text = report(make(sparse_runs.sparse_files())).text
    assert "8,253,054 of the 11,796,480 weights" in text and HONEST in text
    assert "As exported it takes 32.4 MB; the weights that are kept, with one bit per" in text
    assert "would take 15.1 MB." in text and HARDWARE not in text


def test_2_to_4_has_hardware_that_is_not_used():
    def notes(*patterns):
        return " ".join(sparsity_notes(parse_sparsity(patterned(*patterns))))

    assert f"{HARDWARE}. Stock frameworks must be told to use it, and jprune does not" in notes(
        "2:4"
    )
    assert f"{HARDWARE} (here that of some of the blocks)." in notes("2:4", "2:4", "3:4", "1:4")
    assert HARDWARE not in notes("4:8") and HARDWARE not in notes("2:4", *["1:4"] * 4)
    assert all(HONEST in notes(p) for p in ("2:4", "4:8"))


def test_every_block_and_matrix_has_its_sparsity(make):
    names = [name.split(".")[1] for name in (*ATTENTION, *MLP)]
    rows = report(make(sparse_runs.sparse_files())).table("Block", "Density (%)", *names, "All")
    for layer, density in enumerate(DENSITY):
        zeros = 100 * (1 - density)
        expected = [f"{zeros - (at + 1) / 100:.2f}" for at in range(7)]
        assert rows[layer] == [str(layer), f"{100 * density:.2f}", *expected, f"{zeros - 0.04:.2f}"]
    assert rows[4] == ["Total", "30.00", *["–"] * 7, "69.96"]


def test_blocks_without_a_sublayer_and_with_patterns_of_their_own(make):
    data = patterned("4:8", "5:8", "4:8", "4:8", "3:8")
    data["blocks"][2]["layer"] = 5
    for name in ATTENTION:
        del data["blocks"][2]["matrices"][name]
    rows = report(make(sparse_runs.sparse_files(data))).table("Block", "Density (%)", "Pattern")
    assert [row[0] for row in rows] == ["0", "1", "5", "3", "Total"]
    assert [row[2] for row in rows] == ["5:8", "4:8", "4:8", "3:8", "4:8"]
    assert rows[2][3:7] == ["–"] * 4 and rows[2][7] == "74.95"


def test_widths_before_and_after(make):
    page = report(make(sparse_runs.sparse_files(sparse_runs.widths())))
    assert page.table("Block", "Density (%)", "Gone (%)") == [
        ["0", "90.00", "8.00", "4", "344 → 309"],
        ["1", "70.00", "31.00", "4 → 3", "344 → 240"],
        ["Total", "80.00", "19.50", "8 → 7", "688 → 549"],
    ]
    assert "Width pruning by 20%, dlp allocation" in page.text
    assert "19.50% target 20%; width, dlp allocation" in page.text
    assert "195,000 of the 1,000,000 weights in the linear layers of the blocks are go" in page.text
    assert "narrower blocks lack as zeros (3.60 MB). This padding saves nothing" in page.text
    assert "the Orbax checkpoint, which has the true widths (3.25 MB), does." in page.text
    assert HONEST not in page.text


def test_widths_of_which_only_neurons_went():
    data = sparse_runs.widths(padded=False)
    for block in data["blocks"]:
        del block["heads"]
    from jprune.report.sparse_tables import block_table

    assert [row[3] for row in block_table(parse_sparsity(data)).rows] == [None, None, None]
    assert sparsity_notes(parse_sparsity(data))[1:] == [
        "The exported model has these widths, without padding: 3.60 MB."
    ]


def test_the_curve_has_its_table_with_the_unpruned_model_first(make):
    page = report(make(sparse_runs.sparse_files(sparsity_curve=sparse_runs.curve())))
    assert page.table("Sparsity", "uniform", "dlp") == [
        ["0%", "55.25", "55.25"],
        ["50%", "70.50", "68.25"],
        ["60%", "120.2", "99.50"],
        ["70%", "901.5", "410.8"],
    ]
    assert "PPL with wanda, unstructured: wiki.test.raw; 64 windows of 128 tokens" in page.text
    assert "wanda, unstructured. wiki.test.raw. 64 windows of 128 tokens, joined" in page.text
    assert page.text.count("Perplexity against sparsity") == 1  # the heading, not in the figure too
    assert "0%: the unpruned model. Achieved: within 0.03 points of these" in page.text


def test_points_that_were_not_measured_are_left_open(make):
    curve = sparse_runs.curve(dense=None)
    curve["series"][0]["ppl"][2] = None
    curve["series"][1] |= {"sparsity": [0.5, 0.65], "achieved": [0.5, 0.65], "ppl": [1.0, 2.0]}
    del curve["series"][0]["achieved"]
    page = report(make(sparse_runs.sparse_files(sparsity_curve=curve)))
    assert page.table("Sparsity", "uniform", "dlp") == [
        ["50%", "70.50", "1.000"],
        ["60%", "120.2", "–"],
        ["65%", "–", "2.000"],
        ["70%", "–", "–"],
    ]
    assert "Achieved: within" not in page.text and "0%: the unpruned" not in page.text


def test_weight_statistics_stand_beside_the_density_that_came_of_them(make):
    files = sparse_runs.sparse_files()
    page = report(make(files))
    assert page.table("Block", "Mean", "Median", "Outliers (%)", "Weights", "Density (%)")[1] == [
        "1", "0.7500", "0.5000", "0.500", "2949120", "35.00",
    ]  # fmt: skip
    assert "Calibration: data c4.jsonl, num_windows 128." in page.text
    files["scores/allocation.json"] = sparse_runs.allocation(layers=[0, 1, 2, 7])
    assert report(make(files)).tables[1][0][-1] == "Weights"  # of other blocks: not beside them


def test_plots_are_written_and_kept(make):
    workdir = make(sparse_runs.sparse_files(sparsity_curve=sparse_runs.curve()))
    written = write_report(workdir)
    assert {path.name for path in written.plots} == {"density.png", "sparsity_curve.png"}
    page = workdir / "report.html"
    first = page.read_bytes()
    assert first == write_report(workdir).page.read_bytes()
    assert b"density-achieved" in first and b"curve-dlp" in first


def test_a_sparse_run_without_blocks_or_curve_points_has_no_plots(make):
    files = sparse_runs.sparse_files(sparse_runs.masks(blocks=[]), sparse_runs.curve(series=[]))
    assert write_report(make(files)).plots == ()


def test_other_forms_are_shown_as_they_are(make):
    page = report(make(sparse_runs.sparse_files({"mine": 0.5})))
    assert '"mine": 0.5' in page.text and "sparse:dlp: Sparsity, recipe" in page.text


def test_hostile_names_are_escaped(make):
    evil = '<script>alert("x")</script>'
    data = patterned(evil, evil) | {"allocation": evil, "criterion": evil}
    curve = sparse_runs.curve(criterion=evil, data=evil, pattern=evil)
    curve["series"][0]["allocation"] = evil
    files = sparse_runs.sparse_files(data, curve)
    files["scores/statistics.json"]["calibration"]["data"] = evil
    page = report(make(files))
    assert "script" not in page.tags and page.text.count('alert("x")') > 10


def test_a_recipe_too_long_for_the_page_is_left_to_its_file(make):
    files = sparse_runs.sparse_files(sparse_runs.widths())
    neurons = [list(range(20_000))]
    files["recipe.json"]["steps"] = [{"op": "narrow", "args": {"neurons": neurons}}]
    workdir = make(files)
    text = report(workdir).text
    assert "Too long for this page: see recipe.json." in text
    assert (workdir / "report.html").stat().st_size < 200_000


@pytest.mark.parametrize(
    ("sparsity", "expected"),
    [
        (sparse_runs.masks(), {"Criterion": "wanda", "Allocation": "dlp", "Target": "70%",
         "Pattern": "unstructured", "Sparsity": "69.96%", "Parameters": "16.2M", "Left": "100.0%"}),
        (sparse_runs.widths(), {"Criterion": "width", "Allocation": "dlp", "Target": "20%",
         "Sparsity": "19.50%", "Parameters": "1.80M", "Left": "90.2%"}),
    ],
)  # fmt: skip
def test_the_run_in_one_row(make, sparsity, expected):
    table = summary_table(read_run(make(sparse_runs.sparse_files(sparsity))))
    (row,) = table.rows
    figures = {"Run": "W", "PPL before": "65.17", "PPL after": "180.5"}
    assert dict(zip(table.columns, row, strict=True)) == figures | expected
    assert "wiki.test.raw; 256 windows" in table.caption


def test_a_run_that_removed_blocks_and_made_the_rest_sparse_says_both(make):
    files = sparse_runs.sparse_files()
    files["run.json"]["removed"] = [{"layer": 3, "part": "block"}]
    run = read_run(make(files))
    table = summary_table(run)
    (row,) = table.rows
    assert dict(zip(table.columns, row, strict=True))["Removed"] == "1 of 4 blocks"
    assert "Depth pruning, sparsity 70% by wanda, dlp allocation, unstructured" in method_text(run)
