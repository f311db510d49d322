"""`jprune bench` on a tiny model."""

import functools
import json

import pytest

from jprune.cli import bench
from jprune.measure import ceilings, score_jobs


@pytest.fixture
def small(monkeypatch):
    few = functools.partial(score_jobs, calibration=(2, 8), evaluation=(2, 16))
    monkeypatch.setitem(bench.SUITES, "scores", few)
    monkeypatch.setitem(ceilings.MATRIX, "cpu", 64)
    monkeypatch.setitem(ceilings.COPY_BYTES, "cpu", 2**16)


def test_figures(jprune, model, small, tmp_path):
    out = tmp_path / "bench.json"
    status, printed, _ = jprune("bench", f"--model={model}", "--repeats=1", f"--out={out}")
    assert status == 0 and "leave-one-out perplexity, 2 x 8" in printed and "TFLOP/s" in printed
    data = json.loads(out.read_text())
    assert [job["job"].split(",")[0] for job in data["jobs"]] == [
        "leave-one-out perplexity",
        "Taylor scores",
        "perplexity",
    ]
    for job in data["jobs"]:
        assert job["seconds"] > 0 and job["flops"] > 0
        assert job["limit"] == pytest.approx(job["flops"] / data["ceilings"]["flops"])
    assert data["device"]["platform"] == "cpu" and data["suite"] == "scores"


def test_refusals(refused, model):
    assert "did you mean --suite=scores" in refused("bench", "--suite=score", "--shape=llama-16m")
    assert "either --shape=NAME" in refused("bench")
    assert "either --shape=NAME" in refused("bench", "--shape=llama-16m", f"--model={model}")
    assert "unknown shape 'lama2-7b'" in refused("bench", "--shape=lama2-7b")
