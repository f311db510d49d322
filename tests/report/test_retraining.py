"""What a report says of retraining: losses, what was recovered, rounds, comparisons."""

import json

import pytest

from jprune.core.errors import InputError
from jprune.report import compare, write_report
from jprune.report.comparison_tables import comparison_table, comparison_values
from jprune.report.losses import read_losses
from jprune.report.reading import read_run
from jprune.report.retraining import recovery_table, rounds_table
from tests.report.conftest import figure, write_files

LOSSES = [
    {"step": 1, "loss": 4.0, "tokens": 10.0},
    {"step": 2, "loss": 3.5, "tokens": 10.0},
    {"step": 2, "validation_nll": 3.75},
]


@pytest.fixture
def retrained(files):
    """The files of a run that was retrained: NLL 4.1771, pruned 4.3275, in the end 4.2219."""
    figures = files["run.json"]["figures"]
    figures["retrained"] = {"perplexity": [figure(68.163, 4.2219)]}
    figures["retrain"] = {
        "kind": "lora", "parameters": 123000, "steps": 2, "tokens": 20, "loss": 3.75,
        "validation_nll": 3.75,
    }  # fmt: skip
    files["config.json"]["config"]["retrain"] = {"kind": "lora", "data": "c4"}
    files["losses.jsonl"] = "".join(json.dumps(row) + "\n" for row in LOSSES)
    return files


def test_losses(make, retrained):
    assert read_losses(make(retrained) / "losses.jsonl") == {
        "step": [1, 2],
        "loss": [4.0, 3.5],
        "validation": {"step": [2], "loss": [3.75]},
    }
    with pytest.raises(InputError, match=r"losses.jsonl is not JSON, one object a line"):
        read_run(make(retrained | {"losses.jsonl": "{"}))


def test_what_was_recovered(make, retrained):
    run = read_run(make(retrained))
    assert run.phases == ("before", "after", "retrained")
    table = recovery_table(run)
    # (4.3275 - 4.2219) / (4.3275 - 4.1771) = 0.1056 / 0.1504; 65.174 / 68.163.
    assert table.rows == [("wiki.test.raw", "65.17", "75.75", "68.16", "70.2%", "95.6%")]
    assert "BOS first" in table.caption and "rise in NLL" in table.caption


def test_nothing_to_recover(make, retrained):
    retrained["run.json"]["figures"]["after"]["perplexity"] = [figure(64.0, 4.1589)]
    (row,) = recovery_table(read_run(make(retrained))).rows
    assert row[4] is None and row[5] == "95.6%"
    retrained["run.json"]["figures"]["before"]["perplexity"] = [figure(65.0, 4.2, bos="none")]
    (row,) = recovery_table(read_run(make(retrained))).rows  # of another protocol
    assert row[4:] == (None, None)


def test_the_page(make, retrained):
    workdir = make(retrained)
    report = write_report(workdir)
    page = report.page.read_text()
    assert "<h2>Retraining</h2>" in page and "70.2%" in page
    assert "By lora, 123K parameters trained, 2 steps, 20 tokens of c4" in page
    assert "retrained (lora)" in page
    assert "65.17 → 68.16" in page  # the headline is of what the run ends with
    assert "training.png" in [path.name for path in report.plots]


def test_rounds(make, retrained):
    def one(number, layers, before, after, end):
        ppl = {"before": before, "after": after, "retrained": end}
        sizes = {"layers": {"after": layers}, "parameters": {"after": 1000 * layers}}
        figures = {phase: {"perplexity": [figure(x, 4.0)]} for phase, x in ppl.items()}
        return {"round": number, "figures": figures, "model": sizes}

    rounds = [one(1, 5, 65.0, 75.0, 68.0), one(2, 4, 68.0, 80.0, 70.0)]
    retrained["run.json"]["figures"]["rounds"] = rounds
    workdir = make(retrained)
    assert rounds_table(read_run(workdir)).rows == [
        (1, 5, "5.00K", "wiki.test.raw", "65.00", "75.00", "68.00"),
        (2, 4, "4.00K", "wiki.test.raw", "68.00", "80.00", "70.00"),
    ]
    assert "Rounds of pruning and retraining" in write_report(workdir).page.read_text()


def test_a_comparison_has_the_retrained_figures(tmp_path, retrained, files):
    plain = json.loads(json.dumps(retrained))
    plain["run.json"]["figures"].pop("retrained")
    plain["run.json"]["figures"].pop("retrain")
    plain["config.json"]["config"]["retrain"] = {"kind": "none"}
    for run in (plain, retrained):
        run["run.json"]["figures"]["before"]["perplexity"].pop()
        run["run.json"]["figures"]["after"]["perplexity"].pop()
    folders = [write_files(tmp_path / "A", plain), write_files(tmp_path / "B", retrained)]
    comparison = compare(folders)
    table = comparison_table(comparison)
    first, second = (dict(zip(table.columns, row, strict=True)) for row in table.rows)
    assert (first["Retrained"], second["Retrained"]) == (None, "lora")
    assert second["PPL"] == first["PPL"] == "75.75" and second["PPL retrained"] == "68.16"
    assert second["Recovered (%)"] == "70.2"
    assert (first["Retained (%)"], second["Retained (%)"]) == ("86.0", "95.6")
    assert "recovered: the share of the rise in NLL" in table.caption
    values = comparison_values(comparison)[1]
    assert values["retrained"] == "lora"
    assert values["wiki.test.raw.ppl_retrained"] == 68.163
    assert values["wiki.test.raw.recovered_percent"] == pytest.approx(100 * 0.1056 / 0.1504)
    # The reference is what it ends with too.
    table = comparison_table(compare(folders, reference=str(folders[1])))
    assert [row[table.columns.index("Retained (%)")] for row in table.rows] == ["90.0", "100.0"]
