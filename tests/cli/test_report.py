import json

import pytest

from jprune.cli.main import main

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
        (["a", "b"], "takes one workdir, not 2 (a, b); call it once for each"),
        (["nowhere"], "no workdir at nowhere"),
        (["."], "has no run.json"),
        ([".", "--format=xml"], "(one of text, md, csv, tex)"),
    ],
)
def test_bad_input(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["report", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert message in error and "\n" not in error
    assert list(tmp_path.iterdir()) == []
