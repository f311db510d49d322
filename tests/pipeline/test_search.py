"""The job for searches: the best of what was tried, built, and set beside simpler ways."""

import json
import shutil

import jax
import numpy as np
import pytest

from jprune.checkpoints import export_huggingface, load, load_tokenizer
from jprune.cli import configs
from jprune.core.errors import InputError
from jprune.core.files import read_json
from jprune.data import evaluation_windows
from jprune.llama import to_params
from jprune.pipeline.job import dry_run, run_config
from jprune.search import Candidate
from jprune.transforms import drop_units, merge_models, stitch_models
from tests.pipeline.runs import ppl, ran
from tests.report.parsed import Page
from tests.tiny import finetunes


@pytest.fixture(scope="module")
def folders(model, text, tmp_path_factory):
    """A base, two finetunes of it, and two files of many documents."""
    folder = tmp_path_factory.mktemp("search")
    shutil.copytree(model, folder / "base")
    for name, llama in zip(("math", "code"), finetunes(load(model), "math", "code"), strict=True):
        export_huggingface(folder / name, llama, load_tokenizer(model))
    sentences = text.read_text().split(".")
    for name, part in (("a", sentences[::2]), ("b", sentences[1::2])):
        rows = [json.dumps({"text": sentence * 9}) for sentence in part if sentence.strip()]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    return folder


@pytest.fixture
def config(folders):
    """A function (name, changes) -> config."""

    def make(name="gptailor", **changes):
        overrides = {
            "model": str(folders / "base"),
            "objectives": f"{folders / 'a.jsonl'},{folders / 'b.jsonl'}",
            "remove": "1",
            "trials": "14",
            "search_windows": "6",
            "eval_windows": "4",
            "eval": "",
        }
        if name == "gptailor":
            overrides["variants"] = f"{folders / 'math'},{folders / 'code'}"
        return configs.load_config(name, overrides | changes)

    return make


def windows(source, tokenizer, most=None):
    return evaluation_windows(source, tokenizer, 64, max_windows=most)  # the model's most


def test_a_stitched_model(tmp_path, config, folders):
    compared = config(compare="depth,removal,merge")
    record = run_config(compared, tmp_path)
    result = read_json(tmp_path / "search" / "result.json")
    assert record["search"]["trials"]["complete"] >= 1 and len(result["history"]) == 14
    candidate = Candidate.from_json(record["search"]["candidate"])
    assert (
        len(candidate.removed) == 1
        and record["removed"] == record["search"]["candidate"]["removed"]
    )
    base, *variants = (load(folders / name) for name in ("base", "math", "code"))
    expected = stitch_models(candidate.plan(4), base, variants)
    for folder in ("model", "checkpoints/pruned"):
        found, wanted = map(to_params, (load(tmp_path / folder), expected))
        jax.tree.map(np.testing.assert_array_equal, found, wanted)
    # Its values are those on the search windows, its figures those on the other half.
    with np.load(tmp_path / "objectives.npz") as drawn:
        for value, name in zip(record["search"]["values"], drawn.files, strict=True):
            assert drawn[name].shape == (6, 64)
            np.testing.assert_allclose(value, np.log(ppl(expected, drawn[name])), rtol=1e-5)
    tokenizer = load_tokenizer(folders / "base")
    phases = ["before", "math", "code", "after"]
    phases += [f"{k}-{n}" for k in ("depth", "removal") for n in ("base", "math", "code")]
    for phase in phases:
        for entry, name in zip(record["figures"][phase]["perplexity"], "ab", strict=True):
            assert entry["data"] == f"{folders / name}.jsonl@2/2"
    ids = windows(f"{folders / 'a'}.jsonl@2/2", tokenizer, 4)
    after = record["figures"]["after"]["perplexity"][0]["ppl"]
    np.testing.assert_allclose(after, ppl(expected, ids), rtol=1e-5)
    for phase, llama in (("removal-math", variants[0]), ("depth-base", base)):
        other = Candidate.from_json(record["comparisons"][phase]["candidate"])
        assert len(other.removed) == 1 and not other.mixes
        found = record["figures"][phase]["perplexity"][0]["ppl"]
        np.testing.assert_allclose(found, ppl(drop_units(other.removed)(llama), ids), rtol=1e-5)
    # Searches that only remove have scores and curves in the units of the search itself.
    with np.load(tmp_path / "objectives.npz") as drawn:
        sets = [drawn[name] for name in drawn.files]
    for name, llama in (("base", base), ("math", variants[0])):
        found = record["comparisons"][f"removal-{name}"]
        pruned = drop_units(Candidate.from_json(found["candidate"]).removed)(llama)
        ratios = [np.log(ppl(pruned, one)) / np.log(ppl(base, one)) for one in sets]
        np.testing.assert_allclose(found["score"], np.mean(ratios), rtol=1e-5)
        assert [point["trials"] for point in found["curve"]] == list(range(1, 15))
        assert found["curve"][-1]["score"] == found["score"]
        assert sum(found["trials"].values()) == 14
    # The plain merge is the best of several, its removal the best by the objectives together.
    found = record["comparisons"]["merge-depth"]
    best = min(found["tried"], key=lambda one: one["score"])
    assert found["merge"] == {k: best[k] for k in ("method", "options")}
    assert len(found["tried"]) == 11
    merged = merge_models(variants, best["method"], base=base, **best["options"])
    ratios = [np.log(ppl(merged, one)) / np.log(ppl(base, one)) for one in sets]
    np.testing.assert_allclose(best["score"], np.mean(ratios), rtol=1e-5)
    together = np.concatenate(sets)
    without = [ppl(drop_units([(i, "block")])(merged), together) for i in range(4)]
    (gone,) = found["candidate"]["removed"]
    assert gone["layer"] == int(np.argmin(without))
    figure = record["figures"]["merge-depth"]["perplexity"][0]["ppl"]
    pruned = drop_units([(gone["layer"], "block")])(merged)
    np.testing.assert_allclose(figure, ppl(pruned, ids), rtol=1e-5)
    # The page has the picture, the curves, the front, and a row for each kind of model.
    plots = {path.name for path in (tmp_path / "plots").iterdir()}
    assert {"stitched.png", "best.png", "front.png"} <= plots
    page = Page((tmp_path / "report.html").read_text())
    rows = page.table("Model", "Removed", "a NLL", "PPL", "%", "b NLL", "PPL", "%", "mean NLL")
    assert [row[0].partition(" (")[0] for row in rows] == [
        "base", "math", "code", "best depth pruning", "best removal search",
        "depth pruning of the best merge", "stitched model",
    ]  # fmt: skip
    ends = [windows(f"{folders / name}.jsonl@2/2", tokenizer, 4) for name in "ab"]
    nll = [np.mean([np.log(ppl(llama, one)) for one in ends]) for llama in (*variants, expected)]
    np.testing.assert_allclose([float(rows[i][8]) for i in (1, 2, -1)], nll, atol=6e-4)
    share = 100 * np.exp(min(nll[:2]) - nll[2])
    np.testing.assert_allclose(float(rows[-1][10]), share, atol=0.06)
    # Of the complete trials none has a lower mean ratio.
    scores = [row["score"] for row in result["history"] if row["state"] == "complete"]
    assert record["search"]["score"] == min(scores)
    assert ran(run_config(compared, tmp_path)) == []


def test_search_windows_are_not_the_first(tmp_path, config, folders):
    run_config(config(), tmp_path, until="objectives")
    tokenizer = load_tokenizer(folders / "base")
    every = windows(f"{folders / 'a'}.jsonl@1/2", tokenizer)
    with np.load(tmp_path / "objectives.npz") as drawn:
        ids = drawn[drawn.files[0]]
    rows = [int(np.flatnonzero((every == one).all(axis=1))[0]) for one in ids]
    assert rows == sorted(rows) and rows != list(range(6)) and len(every) > 6


def test_more_trials_go_on_with_the_search(tmp_path, config):
    run_config(config(trials="8"), tmp_path)
    first = read_json(tmp_path / "search" / "result.json")["history"]
    again = run_config(config(trials="12"), tmp_path)
    history = read_json(tmp_path / "search" / "result.json")["history"]
    assert len(first) == 8 and len(history) == 12 and history[:8] == first
    assert ran(again)[0] == "search"


@pytest.mark.parametrize("granularity", ["block", "sublayer"])
def test_removal_alone(tmp_path, config, folders, granularity):
    changes = {"sampler": "greedy", "rungs": "1", "trials": "16", "compare": ""}
    values = config("search_depth", granularity=granularity, **changes)
    record = run_config(values, tmp_path)
    (gone,) = record["removed"]
    assert (gone["part"] == "block") == (granularity == "block")
    candidate = Candidate.from_json(record["search"]["candidate"])
    expected = drop_units(candidate.removed)(load(folders / "base"))
    found, wanted = map(to_params, (load(tmp_path / "checkpoints" / "pruned"), expected))
    jax.tree.map(np.testing.assert_array_equal, found, wanted)
    # Every block was tried on all windows.
    if granularity == "block":
        with np.load(tmp_path / "objectives.npz") as drawn:
            llama, ids = load(folders / "base"), [drawn[name] for name in drawn.files]
        full = [np.log(ppl(llama, one)) for one in ids]
        ratios = [
            np.mean([np.log(ppl(drop_units([(i, "block")])(llama), o)) / f
                     for o, f in zip(ids, full, strict=True)])
            for i in range(4)
        ]  # fmt: skip
        assert gone["layer"] == int(np.argmin(ratios))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objectives": ""}, "what is searched for"),
        ({"sampler": "tep"}, "did you mean 'tpe'"),
        ({"sampler": "greedy"}, "with variants use another sampler"),
        ({"rungs": "1,0.5"}, "rungs are fractions above 0 that rise to 1"),
        ({"compare": "merge", "variants": ""}, "nothing to merge without variants"),
        ({"compare": "dept"}, "unknown comparison 'dept'; did you mean 'depth'"),
        ({"granularity": "mlp"}, "stitching is of whole blocks"),
        ({"remove": "4"}, "removing 4 of 4 layers leaves no model"),
        ({"trials": "0"}, "trials of a search is a whole number from 1 on"),
    ],
)
def test_bad_configs_leave_nothing_behind(tmp_path, config, changes, message):
    with pytest.raises(InputError, match=message):
        run_config(config(**changes), tmp_path / "W")
    assert not (tmp_path / "W").exists()


def test_search_and_report_data_are_disjoint(tmp_path, config, folders):
    same = str(folders / "a.jsonl")
    with pytest.raises(InputError, match="is both searched on .* and reported"):
        run_config(config(eval=same), tmp_path)
    lines = dry_run(config(eval=str(folders / "b.jsonl"), objectives=same), tmp_path)
    assert any(line.startswith("depth-math") for line in lines)
