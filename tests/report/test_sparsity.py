"""Reading of sparse runs: what the files say, and files that are not what they should be."""

import copy

import pytest

from jprune.core.errors import InputError
from jprune.report import parse_sparsity, sparsity_notes
from jprune.report.reading import read_run
from jprune.report.sparsity import parse_sparsity_curve
from tests.report import sparse_runs
from tests.report.conftest import perplexity_scores


def test_reads_masks_curve_statistics_and_allocation(make):
    run = read_run(make(sparse_runs.sparse_files(sparsity_curve=sparse_runs.curve())))
    assert (run.sparse.target, run.sparse.achieved, run.sparse.zeros) == (0.7, 0.69962, 8_253_054)
    assert [b.density for b in run.sparse.blocks] == sparse_runs.DENSITY
    assert run.sparse.blocks[1].matrices["mlp.down_proj"] == 0.6493
    assert (run.sparse.stored, run.sparse.smallest) == (32_400_000, 15_100_000)
    assert not run.sparse.is_width
    assert [one.allocation for one in run.sparsity_curve.series] == ["uniform", "dlp"]
    assert run.sparsity_curve.dense == 55.25
    assert run.statistics.outliers == (0.875, 0.5, 0.25, 0.1255)
    assert run.allocation.density == tuple(sparse_runs.DENSITY)
    assert run.scores == () and run.chosen is None


def test_reads_widths():
    sparsity = parse_sparsity(sparse_runs.widths())
    assert sparsity.is_width and sparsity.padded and sparsity.pattern is None
    assert sparsity.blocks[1].heads == (4, 3) and sparsity.blocks[1].neurons == (344, 240)
    assert sparsity.smallest == 3_250_000


def test_a_run_on_its_way_has_no_sparsity_yet(make):
    files = sparse_runs.sparse_files()
    files["run.json"]["sparsity"] = {}
    assert read_run(make(files)).sparse is None
    assert parse_sparsity({}) is None and parse_sparsity_curve({}) is None
    assert sparsity_notes(None) == []


def test_a_criterion_of_that_name_keeps_its_scores(make):
    files = sparse_runs.sparse_files()
    files["scores/statistics.json"] = perplexity_scores() | {"criterion": "statistics"}
    run = read_run(make(files))
    assert run.statistics is None and run.chosen.criterion == "statistics"


def test_sizes_may_be_missing():
    data = sparse_runs.masks()
    del data["bytes"]
    assert parse_sparsity(data).stored is None
    assert "exported" not in " ".join(sparsity_notes(parse_sparsity(data)))


def changed(make_data, *path, value=None):
    """What a maker gives, with one value replaced, or taken out for None."""
    data = copy.deepcopy(make_data())
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    if value is None:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (changed(sparse_runs.masks, "criterion"), "sparsity has no 'criterion'"),
        (changed(sparse_runs.masks, "pattern"), "sparsity has no 'pattern'"),
        (changed(sparse_runs.masks, "blocks"), "sparsity has no 'blocks'"),
        (changed(sparse_runs.masks, "achieved", value="much"),
         "sparsity: achieved should be a number, not 'much'"),
        (changed(sparse_runs.masks, "target", value=70),
         "sparsity: target should be a share from 0 to 1, not 70"),
        (changed(sparse_runs.masks, "zeros", value=0.5),
         "sparsity: zeros should be a whole number, not 0.5"),
        (changed(sparse_runs.masks, "allocation", value=["dlp"]),
         "sparsity: allocation should be a string, not ['dlp']"),
        (changed(sparse_runs.masks, "blocks", value={}),
         "sparsity: blocks should be a list, not {}"),
        (changed(sparse_runs.masks, "bytes", value=5),
         "sparsity: bytes should be a JSON object, not 5"),
        (changed(sparse_runs.masks, "bytes", "compressed"), "bytes has no 'compressed'"),
        (changed(sparse_runs.widths, "bytes", "unpadded"), "bytes has no 'unpadded'"),
        (changed(sparse_runs.masks, "blocks", 2, value=3),
         "sparsity of block 2 should be a JSON object, not 3"),
        (changed(sparse_runs.masks, "blocks", 2, "density"), "sparsity of block 2 has no 'den"),
        (changed(sparse_runs.masks, "blocks", 1, "matrices"), "of block 1 has no 'matrices'"),
        (changed(sparse_runs.masks, "blocks", 1, "matrices", value={"mlp.top_proj": 0.5}),
         "of block 1: 'mlp.top_proj' is no matrix of a block (self_attn.q_proj, "),
        (changed(sparse_runs.masks, "blocks", 1, "matrices", value={"mlp.up_proj": None}),
         "of block 1: matrices: mlp.up_proj should be a number, not None"),
        (changed(sparse_runs.widths, "blocks", 0, "heads", "after"),
         "sparsity of block 0: heads has no 'after'"),
    ],
)  # fmt: skip
def test_sparsity_that_is_not_what_it_should_be(make, data, message):
    files = sparse_runs.sparse_files()
    files["run.json"]["sparsity"] = data
    with pytest.raises(InputError) as error:
        read_run(make(files))
    assert message in str(error.value) and "run.json: sparsity" in str(error.value)


def other_lengths():
    data = copy.deepcopy(sparse_runs.curve())
    data["series"][1]["ppl"].pop()
    return data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (other_lengths(), "sparsity_curve of dlp: 2 ppl for 3 sparsity"),
        (changed(sparse_runs.curve, "series"), "sparsity_curve has no 'series'"),
        (changed(sparse_runs.curve, "criterion"), "sparsity_curve has no 'criterion'"),
        (changed(sparse_runs.curve, "series", 0, "allocation"), "series 0 has no 'allocation'"),
        (changed(sparse_runs.curve, "series", 0, "ppl"), "of uniform has no 'ppl'"),
        (changed(sparse_runs.curve, "series", 0, value=1), "series 0 should be a JSON object, not"),
        (changed(sparse_runs.curve, "series", 0, "ppl", value=["x"]), "should be a list of num"),
        (changed(sparse_runs.curve, "series", 0, "allocation", value="dlp"), "two series of dlp"),
        (changed(sparse_runs.curve, "dense", value="x"), "dense should be a number, not 'x'"),
    ],
)
def test_curves_that_are_not_what_they_should_be(make, data, message):
    with pytest.raises(InputError) as error:
        read_run(make(sparse_runs.sparse_files(sparsity_curve=data)))
    assert message in str(error.value) and "run.json: sparsity_curve" in str(error.value)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("statistics", sparse_runs.statistics(median=[1.0]), "1 median for 4 layers"),
        ("statistics", sparse_runs.statistics(layers=[0, 1, 2, 2.5]), "should hold whole numbers"),
        ("statistics", {"mean": []}, "statistics.json has no 'median'"),
        ("allocation", sparse_runs.allocation(density=[0.5]), "1 density for 4 layers"),
        ("allocation", sparse_runs.allocation(density="x"), "density should be a list, not 'x'"),
        ("allocation", {}, "allocation.json has no 'layers'"),
    ],
)
def test_rates_that_are_not_what_they_should_be(make, name, data, message):
    with pytest.raises(InputError) as error:
        read_run(make(sparse_runs.sparse_files() | {f"scores/{name}.json": data}))
    assert message in str(error.value) and f"{name}.json" in str(error.value)
