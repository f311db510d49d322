import copy
import re

import pytest

from jprune.core.errors import InputError
from jprune.report import write_report
from tests.report.conftest import figure, perplexity_scores, run_json
from tests.report.parsed import Page, report


def test_headline_has_model_method_sizes_and_perplexity_with_its_protocol(make, files):
    page = report(make(files))
    for words in (
        "tiny-llama", "2 of 6 blocks", "original indices 1, 3", "16.2M → 13.4M", "-17.3%",
        "32.4 MB → 26.8 MB", "65.17 → 75.75",
        "wiki.test.raw; 256 windows of 128 tokens, joined with '\\n\\n', BOS first, float32",
        "shortened_llama:ppl: Depth pruning, perplexity score", "sha256 c0ffeec0ffee.",
    ):  # fmt: skip
        assert words in page.text, words


def test_without_a_name_the_configured_model_is_the_title(make, files):
    del files["run.json"]["model"]["name"]
    assert "<h1>m/tiny</h1>" in write_report(make(files)).page.read_text()


def test_each_protocol_has_its_own_evaluation_table(make, files):
    figures = files["run.json"]["figures"]
    figures["before"]["perplexity"].append(figure(102.34, 4.6283, data="ptb"))
    figures["after"]["perplexity"].append(figure(190.12, 5.2476, data="ptb"))
    page = report(make(files))
    tables = [t for t in page.tables if t[0][:3] == ["Data", "Model", "PPL"]]
    assert [[row[:4] for row in t[1:]] for t in tables] == [
        [
            ["wiki.test.raw", "before", "65.17", "–"],
            ["wiki.test.raw", "after", "75.75", "1.16×"],
            ["ptb", "before", "102.3", "–"],
            ["ptb", "after", "190.1", "1.86×"],
        ],
        [["wiki.test.raw", "before", "55.44", "–"], ["wiki.test.raw", "after", "61.23", "1.10×"]],
    ]
    assert tables[0][1][4:] == ["4.1771 ± 0.0125", "32512"]
    assert "256 windows of 512 tokens" in page.text


def test_perplexities_of_different_protocols_are_never_paired(make, files):
    figures = files["run.json"]["figures"]
    figures["after"]["perplexity"] = [figure(75.754, 4.3275, dtype="bfloat16")]
    page = report(make(files))
    assert "65.17 → 75.75" not in page.text and "1.16×" not in page.text
    tables = [t for t in page.tables if t[0][:3] == ["Data", "Model", "PPL"]]
    assert [len(t) - 1 for t in tables] == [1, 1, 1]


def test_removed_units_are_listed_marked_and_ranked(make, files):
    page = report(make(files))
    assert page.table("Original index") == [
        ["1", "block", "71.41", "1"],
        ["3", "block", "71.48", "2"],
    ]
    scores = page.table("Rank", "Index")
    assert [row[-1] for row in scores] == [
        "removed",
        "removed",
        "kept",
        "kept",
        "kept",
        "protected",
    ]
    assert scores[0] == ["1", "1", "block", "71.41", "+0.0200 ± 0.0100", "1–2", "removed"]
    assert scores[5] == ["–", "0", "block", "313.2", "+1.5000 ± 0.1000", "–", "protected"]
    gone = [value for tag, name, value in page.attributes if (tag, name) == ("tr", "class")]
    assert gone == ["gone", "gone"]
    tips = [value for tag, name, value in page.attributes if (tag, name) == ("span", "title")]
    assert tips == ["block 0", "block 1: removed", "block 2", "block 3: removed", "block 4",
                    "block 5"]  # fmt: skip
    ids = {value for _, name, value in page.attributes if name == "id"}
    assert {i.split("-", 1)[1] for i in ids if i.endswith("-removed")} == {
        "unit-1-block-removed", "unit-3-block-removed",
    }  # fmt: skip


def test_scores_say_on_which_data_they_were_computed(make, files):
    text = report(make(files)).text
    assert "data c4.jsonl, num_windows 10, sample documents, full_ppl 70.00" in text


def test_the_noise_is_told_in_words(make, files):
    text = report(make(files)).text
    assert "Inside the noise: ranks 1–2. For 1 of 4 pairs of neighbouring ranks" in text
    cut = "The cut between rank 2 (block 3) and rank 3 (block 2) is outside the noise"
    assert f"{cut}: the difference is 0.1790 ± 0.0224 nats/token." in text


def test_no_cut_is_told_where_the_run_removed_something_else(make, files):
    files["run.json"]["removed"] = [{"layer": 4, "part": "block"}, {"layer": 5, "part": "block"}]
    text = report(make(files)).text
    assert "Inside the noise" in text and "The cut" not in text


def test_curve_sizes_stages_recipe_and_configuration(make, files):
    page = report(make(files))
    assert page.table("Removed", "perplexity", "last", "random") == [
        ["0", "66.12", "66.12", "66.12"],
        ["1", "70.25", "91.50", "120.5"],
        ["2", "76.50", "333.8", "410.0"],
    ]
    assert page.table("", "Before") == [
        ["Layers", "6", "4", "-33.3%"],
        ["Parameters", "16,200,000", "13,400,000", "-17.3%"],
        ["Bytes", "32,400,000", "26,800,000", "-17.3%"],
    ]
    assert page.table("Stage") == [["score", "32.4 s"], ["evaluate", "3 min 20 s"]]
    assert '"op": "drop_blocks"' in page.text and '"seed": 1234' in page.text
    assert "AutoModelForCausalLM.from_pretrained('W/model')" in page.text
    assert "jprune.load('W/model')" in page.text
    assert "jprune apply --recipe=W/recipe.json --out=DIR" in page.text


def test_the_page_needs_nothing_outside_itself(make, files):
    workdir = make(files)
    page = report(workdir)
    assert "script" not in page.tags and "link" not in page.tags and "iframe" not in page.tags
    for tag, name, value in page.attributes:
        assert not name.startswith("on"), (tag, name)
        if name in ("src", "href", "xlink:href", "data", "action", "poster", "srcset"):
            assert value.startswith(("#", "data:")), (tag, name, value)
    source = (workdir / "report.html").read_text()
    assert "@import" not in source
    assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", source))
    # Apart from the names of the SVG namespaces there is no address in it.
    addresses = set(re.findall(r"https?://[^\s\"'<]+", source))
    assert addresses <= {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}


def test_hostile_names_are_escaped_everywhere(make, files):
    evil = '<script>alert("x")</script>&amp;\'"><img src=x onerror=y>'
    run = files["run.json"]
    run["model"]["name"] = evil
    run["stages"][0]["name"] = run["stages"][1]["status"] = evil
    run["stages"].append({"name": evil, "status": "failed", "seconds": None})
    for phase in ("before", "after"):
        run["figures"][phase]["perplexity"][0]["data"] = evil
        run["figures"][phase]["perplexity"][0]["protocol"]["bos"] = evil
        run["figures"][phase]["tasks"] = [{"task": evil, "metric": evil, "value": 0.5}]
    run["figures"]["curve"]["data"] = evil
    run["figures"]["curve"]["series"][0]["criterion"] = evil
    run["sparsity"] = {evil: evil}
    files["config.json"][evil] = evil
    files["recipe.json"]["steps"][0]["op"] = evil
    files["scores/perplexity.json"]["criterion"] = evil
    files["scores/perplexity.json"]["settings"] = {evil: evil}
    page = report(make(files))
    assert "script" not in page.tags and "img" not in page.tags
    assert not [a for a in page.attributes if a[1].startswith("on")]
    assert page.text.count('alert("x")') > 12
    assert "&amp;'" in page.text  # not unescaped twice


def test_sublayers_are_named_and_the_export_is_explained(make, files):
    units = [{"layer": i, "part": p} for i in range(6) for p in ("attention", "mlp")]
    files["run.json"]["removed"] = [units[2], units[5]]
    files["scores/perplexity.json"] = {
        "criterion": "taylor", "granularity": "sublayer", "units": units,
        "scores": list(range(12)), "order": [2, 5, 0],
    }  # fmt: skip
    page = report(make(files))
    assert "1 attention, 1 MLP of 6 layers" in page.text
    assert "original indices attention 1; MLP 2" in page.text
    assert page.table("Original index") == [["1", "attention", "2.000", "1"],
                                            ["2", "MLP", "5.000", "2"]]  # fmt: skip
    tips = [value for tag, name, value in page.attributes if (tag, name) == ("span", "title")]
    assert [t for t in tips if "removed" in t] == ["attention 1: removed", "MLP 2: removed"]
    assert "the output projection of each removed sublayer is zero" in page.text


def test_angular_windows_and_greedy_paths_have_their_tables(make, files):
    files["scores/angular.json"] = {
        "criterion": "angular", "scores": [None] * 6, "n": 2,
        "window_scores": [0.5, 0.25, 0.125, 0.375, 0.4], "order": [2, 3],
    }  # fmt: skip
    files["scores/greedy.json"] = perplexity_scores() | {
        "criterion": "greedy", "order": [3, 1],
        "path": [{"layer": 3, "part": "block", "position": 3, "ppl": 71.25},
                 {"layer": 1, "part": "block", "position": 1, "ppl": 80.5}],
    }  # fmt: skip
    workdir = make(files)
    page = report(workdir)
    assert page.table("Rank", "Blocks")[:2] == [["1", "2–3", "0.1250"], ["2", "1–2", "0.2500"]]
    assert page.table("Step") == [["1", "block 3", "71.25"], ["2", "block 1", "80.50"]]
    names = {p.name for p in (workdir / "plots").iterdir()}
    assert names == {"curve.png", "scores-perplexity.png", "scores-greedy.png",
                     "windows-angular.png"}  # fmt: skip


def test_a_run_that_failed_says_so_and_a_running_stage_does_not(make, files):
    files["run.json"]["stages"] = [
        {"name": "export", "status": "failed", "seconds": 1.0},
        {"name": "report", "status": "running", "seconds": None},
    ]
    page = report(make(files))
    assert "Stage export: failed." in page.text and "Stage report" not in page.text
    assert page.table("Stage") == [["export", "1.00 s", "failed"]]


def test_the_page_of_a_finished_run_is_the_one_that_the_run_wrote(make, files):
    stages = files["run.json"]["stages"]
    stages.append({"name": "report", "status": "running", "seconds": None})
    during = write_report(make(files)).page.read_bytes()
    for stage in stages:
        stage["status"] = "cached"
    stages[-1]["seconds"] = 1.5
    assert write_report(make(files)).page.read_bytes() == during


def test_an_empty_run_gives_a_page(make):
    workdir = make({"run.json": "{}"})
    written = write_report(workdir)
    assert written.plots == () and not (workdir / "plots").exists()
    page = Page((workdir / "report.html").read_text())
    assert "W" in page.text and not page.tables


def test_a_training_run_shows_its_loss(make):
    figures = {"training": {"step": [0, 10], "loss": [8.0, 3.0]},
               "after": {"perplexity": [figure(14.25, 2.6568)]}}  # fmt: skip
    workdir = make(
        {"run.json": {"figures": figures, "model": {"name": "m", "parameters": 3900000}}}
    )
    page = report(workdir)
    assert "Training" in page.text and "14.25" in page.text and "3.90M" in page.text
    assert "What was removed" not in page.text and "Scores" not in page.text
    assert [p.name for p in (workdir / "plots").iterdir()] == ["training.png"]


def test_writing_again_gives_the_same_bytes_and_drops_old_plots(make, files):
    workdir = make(files)
    written = write_report(workdir)
    assert {p.name for p in written.plots} == {"curve.png", "scores-perplexity.png"}
    first = {p: p.read_bytes() for p in (workdir / "report.html", *written.plots)}
    (workdir / "plots" / "scores-old.png").write_bytes(b"old")
    write_report(workdir)
    assert {p: p.read_bytes() for p in first} == first
    assert not (workdir / "plots" / "scores-old.png").exists()
    leftovers = [p for p in workdir.rglob(".*")]
    assert leftovers == []


def test_a_bad_file_leaves_the_old_page(make, files):
    workdir = make(files)
    write_report(workdir)
    before = (workdir / "report.html").read_bytes()
    (workdir / "scores" / "perplexity.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        write_report(workdir)
    assert (workdir / "report.html").read_bytes() == before


def test_reading_does_not_change_the_figures(make):
    run = run_json()
    kept = copy.deepcopy(run)
    report(make({"run.json": run}))
    assert run == kept
