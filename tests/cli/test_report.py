import json

import pytest

from jprune.cli.main import main
from tests.report import search_runs, sparse_runs
from tests.report.conftest import write_files

RUN = {
    "figures": {
        "before": {"perplexity": [{"data": "d", "ppl": 65.174, "protocol": {"bos": "first"}}]},
        "after": {"perplexity": [{"data": "d", "ppl": 75.754, "protocol": {"bos": "first"}}]},
    },
    "removed": [{"layer": 1, "part": "block"}],
    "model": {"layers": [6, 5], "parameters": [2000, 1500]},
}


@pytest.fixture
def workdir(tmp_path):
    folder = tmp_path / "W"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps(RUN))
    return folder


def test_prints_a_row_and_writes_page_and_json(workdir, tmp_path, capsys):
    assert main(["report", str(workdir), f"--out={tmp_path / 'o.json'}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == [
        "W",
        "–",
        "1",
        "of",
        "6",
        "blocks",
        "1.50K",
        "75.0%",
        "65.17",
        "75.75",
    ]
    assert lines[3] == "PPL: d; BOS first"
    assert "65.17 → 75.75" in (workdir / "report.html").read_text()
    written = json.loads((tmp_path / "o.json").read_text())
    assert written["ppl"] == {"before": 65.174, "after": 75.754}
    assert written["removed"] == RUN["removed"] and written["protocol"] == {"bos": "first"}


def test_prints_other_formats(workdir, capsys):
    assert main(["report", f"--workdir={workdir}", "--format=csv"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "Run,Criterion,Removed,Parameters,Left,PPL before,PPL after",
        "W,,1 of 6 blocks,1.50K,75.0%,65.17,75.75",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no workdir given; write: jprune report WORKDIR"),
        (["a", "b"], "no workdir at a"),
        ([".", "--reference=x"], "--reference is for a comparison: give several workdirs"),
        ([".", "--per_run"], "--per_run is for a comparison: give several workdirs"),
        (["a", "b", "--table=curve", "--reference=a"], "--reference is for the table of runs, not"),
        (["a", "b", "--out=."], "--out=. is a folder"),
        (["nowhere"], "no workdir at nowhere"),
        (["."], "has no run.json"),
        ([".", "--format=xml"], "(one of text, md, csv, tex)"),
        (["a,b"], "no workdir at a,b; several are several words: jprune report a b"),
        ([".", "--out=x.pdf"], "--out=x.pdf: what to write? end the name in .json, .txt, .md, "),
        (["a", "b", "--out=x.pdf"], "--out=x.pdf: what to write? end the name in .json, .txt"),
        (["a", "b", "--out=x"], "--out=x: what to write? end the name in .json, .txt"),
        (["a", "b", "--out=x.md", "--format=csv"], "x.md is the name of a table as md, but --form"),
        ([".", "--out=x.md", "--format=text"], "leave that out, or end the name in .txt"),
    ],
)
def test_bad_input(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["report", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def two(workdir, tmp_path):
    """The workdir and another that is worse by half, in folders W and V."""
    other = json.loads(json.dumps(RUN))
    other["figures"]["after"]["perplexity"][0]["ppl"] = 1.5 * 75.754
    (tmp_path / "V").mkdir()
    (tmp_path / "V" / "run.json").write_text(json.dumps(other))
    return [str(workdir), str(tmp_path / "V")]


def test_compares_several_runs(two, jprune):
    status, out, _ = jprune("report", *two)
    assert status == 0
    header, _, first, second, *caption = out.splitlines()
    assert header.split()[-3:] == ["PPL", "Retained", "(%)"]
    assert first.split()[-3:] == ["65.17", "75.75", "86.0"]  # 65.174 / 75.754
    assert second.split()[-3:] == ["65.17", "113.6", "57.4"]
    assert caption[0] == "PPL on d: BOS first."
    _, out, _ = jprune("report", *two, f"--reference={two[0]}")
    assert [line.split()[-1] for line in out.splitlines()[2:4]] == ["100.0", "66.7"]


@pytest.mark.parametrize("ending", ["md", "csv", "tex", "txt"])
def test_writes_the_table_to_a_file_named_after_its_format(two, jprune, tmp_path, ending):
    file = tmp_path / f"table.{ending}"
    for _ in range(2):  # safe to repeat
        status, out, _ = jprune("report", *two, f"--out={file}")
        assert status == 0 and file.read_text() == out
    format = "text" if ending == "txt" else ending
    assert jprune("report", *two, f"--format={format}")[1] == out
    assert jprune("report", *two, f"--format={format}", f"--out={file}")[:2] == (0, out)


@pytest.mark.parametrize("table", ["summary", "curve"])
@pytest.mark.parametrize("ending", ["md", "csv", "tex", "txt"])
def test_one_run_goes_by_the_ending_too(workdir, jprune, tmp_path, ending, table):
    figures = RUN["figures"] | {
        "curve": {"series": [{"criterion": "last", "removed": [0, 1], "ppl": [65.2, 75.8]}]}
    }
    (workdir / "run.json").write_text(json.dumps(RUN | {"figures": figures}))
    file = tmp_path / f"table.{ending}"
    for _ in range(2):  # safe to repeat
        status, out, _ = jprune("report", workdir, f"--table={table}", f"--out={file}")
        assert status == 0 and file.read_text() == out
    format = "text" if ending == "txt" else ending
    assert jprune("report", workdir, f"--table={table}", f"--format={format}")[1] == out


def test_json_and_a_printed_form_go_together(two, jprune, tmp_path):
    status, out, _ = jprune("report", *two, "--format=md", f"--out={tmp_path / 'o.json'}")
    assert status == 0 and out.startswith("| Run |")
    assert len(json.loads((tmp_path / "o.json").read_text())["runs"]) == 2


def test_folders_are_words_and_may_hold_commas(two, jprune, tmp_path):
    """As a shell gives them for runs/*; the flag itself takes several in one word."""
    (tmp_path / "lr=0.1,seed=0").symlink_to(tmp_path / "V")
    expected = jprune("report", *two)[1]
    words = jprune("report", two[0], tmp_path / "lr=0.1,seed=0")[1]
    assert words.splitlines()[3].startswith("lr=0.1,seed=0")
    assert jprune("report", f"--workdir={','.join(two)}")[1] == expected


def test_writes_the_comparison_as_json(two, jprune, tmp_path):
    assert jprune("report", *two, f"--out={tmp_path / 'o.json'}")[0] == 0
    written = json.loads((tmp_path / "o.json").read_text())
    assert [run["d.ppl"] for run in written["runs"]] == [75.754, 1.5 * 75.754]
    assert written["protocol"] == {"d": {"bos": "first"}}


def test_keeps_files_that_are_no_tables(two, refused, tmp_path):
    (tmp_path / "notes.md").write_text("# mine")
    message = refused("report", *two, f"--out={tmp_path / 'notes.md'}")
    assert "exists and is no table of jprune" in message
    assert (tmp_path / "notes.md").read_text() == "# mine"


@pytest.fixture
def sparse(tmp_path):
    """Workdirs S and T of sparse runs that differ in their seed."""
    names = [str(tmp_path / "S"), str(tmp_path / "T")]
    for seed, name in enumerate(names):
        curve = sparse_runs.curve()
        curve["series"][0]["ppl"][0] += 2.0 * seed
        files = sparse_runs.sparse_files(sparsity_curve=curve, after=180.0 + seed, seed=seed)
        write_files(tmp_path / name, files)
    return names


def test_a_sparse_run_in_one_row(sparse, jprune, tmp_path):
    status, out, _ = jprune("report", sparse[0], f"--out={tmp_path / 'o.json'}")
    assert status == 0
    assert out.splitlines()[2].split() == [
        *("S", "wanda", "dlp", "unstructured", "70%", "69.96%", "16.2M", "100.0%"),
        *("65.17", "180.0"),
    ]
    written = json.loads((tmp_path / "o.json").read_text())
    assert written["sparsity"]["achieved"] == 0.69962 and written["removed"] == []


def test_the_curve_of_a_sparse_run(sparse, jprune):
    _, out, _ = jprune("report", sparse[0], "--table=curve")
    lines = out.splitlines()
    assert lines[0].split() == ["Sparsity", "uniform", "dlp"]
    assert lines[2].split() == ["0%", "55.25", "55.25"]
    assert lines[5].split() == ["70%", "901.5", "410.8"]


def test_curves_of_several_sparse_runs(sparse, jprune, tmp_path):
    status, out, _ = jprune("report", *sparse, "--table=curve", f"--out={tmp_path / 'o.json'}")
    assert status == 0
    assert out.splitlines()[3].split() == ["50%", "71.50", "±", "1.41", "68.25", "±", "0.00"]
    written = json.loads((tmp_path / "o.json").read_text())
    assert written["points"][0]["ppl"] == 71.5 and len(written["points"]) == 6
    assert written["protocol"]["wiki.test.raw"]["num_windows"] == 64
    for ending in ("md", "csv", "tex", "txt"):
        file = tmp_path / f"curve.{ending}"
        for _ in range(2):  # safe to repeat
            status, out, _ = jprune("report", *sparse, "--table=curve", f"--out={file}")
            assert status == 0 and file.read_text() == out


def test_curves_of_depth_runs_are_shown_alone(two, refused):
    message = refused("report", *two, "--table=curve")
    assert "W is a depth run; give one workdir for the curve of that" in message


def test_a_run_without_a_curve(workdir, refused):
    assert "has no curve; see its key curve_windows" in refused("report", workdir, "--table=curve")


@pytest.fixture
def searches(tmp_path):
    """Workdirs U and V of searches that differ in their seed."""
    names = [str(tmp_path / "U"), str(tmp_path / "V")]
    for seed, name in enumerate(names):
        run = search_runs.run_json(search_runs.NLL | {"after": (3.5 + seed / 4, 5.25)})
        write_files(tmp_path / name, search_runs.search_files(run, seed=seed))
    return names


def test_a_search_in_one_row_and_as_a_table_of_objectives(searches, jprune, tmp_path):
    status, out, _ = jprune("report", searches[0])
    assert status == 0 and out.splitlines()[2].split()[:3] == ["U", "evolution", "8"]
    file = tmp_path / "o.json"
    status, out, _ = jprune("report", searches[0], "--table=objectives", f"--out={file}")
    assert status == 0
    # NLL, PPL and what is retained of the best variant: on each of two data sources, and the mean.
    assert out.splitlines()[8].split()[-9:] == [
        *("3.500", "33.12", "60.7"), *("5.250", "190.6", "28.7"), *("4.375", "79.44", "88.2"),
    ]  # fmt: skip
    written = json.loads(file.read_text())
    assert written["models"][-1]["mean.nll_nats"] == 4.375
    assert written["ppl"]["after"] == pytest.approx(33.115, rel=1e-4)


def test_the_objectives_of_several_searches(searches, jprune, tmp_path):
    call = ("report", *searches, "--table=objectives")
    for ending in ("md", "csv", "tex", "txt", "json"):
        file = tmp_path / f"o.{ending}"
        for _ in range(2):  # safe to repeat
            status, out, _ = jprune(*call, f"--out={file}")
            assert status == 0 and (ending == "json" or file.read_text() == out)
    assert "3.625 ± 0.177" in out
    written = json.loads(file.read_text())
    assert len(written["models"]) == 7 and list(written["protocol"]) == list(search_runs.DATA)
    status, out, _ = jprune(*call, "--per_run", "--format=md")
    assert out.startswith("| Run | Model |") and out.count("stitched model") == 2


def test_objectives_are_of_searches(workdir, searches, refused):
    message = refused("report", workdir, "--table=objectives")
    assert "--table=objectives is of searches, and" in message and "W is a depth run" in message
    message = refused("report", *searches, "--table=objectives", f"--reference={searches[0]}")
    assert "--reference is for the table of runs, not for --table=objectives" in message
