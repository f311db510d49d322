"""`jprune bench` on a tiny model."""

import functools
import json

import pytest

from jprune.cli import bench
from jprune.measure import ceilings, mask_jobs, retrain_jobs, score_jobs, search_jobs
from tests.tiny import tiny


@pytest.fixture
def small(monkeypatch):
    few = functools.partial(score_jobs, calibration=(2, 8), evaluation=(2, 16))
    monkeypatch.setitem(bench.SUITES, "scores", few)
    few = functools.partial(mask_jobs, calibration=(2, 16))
    monkeypatch.setitem(bench.SUITES, "masks", few)
    few = functools.partial(retrain_jobs, batch=(4, 16), remove=1)
    monkeypatch.setitem(bench.SUITES, "retrain", few)
    few = functools.partial(search_jobs, evaluation=(2, 16), remove=1)
    monkeypatch.setitem(bench.SUITES, "search", few)
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


def test_the_suite_of_masks(jprune, model, small, tmp_path):
    out = tmp_path / "bench.json"
    arguments = ("--suite=masks", f"--model={model}", "--repeats=1", f"--out={out}")
    status, printed, _ = jprune("bench", *arguments)
    assert status == 0 and "SparseGPT at 70%, 2 x 16" in printed
    data = json.loads(out.read_text())
    assert data["suite"] == "masks"
    assert [job["job"] for job in data["jobs"]] == [
        "DLP ratios, then Wanda at 70%, 2 x 16",
        "SparseGPT at 70%, 2 x 16",
    ]
    assert all(job["seconds"] > 0 and job["flops"] > 0 for job in data["jobs"])


def test_the_suite_of_searches(jprune, model, small, tmp_path):
    out = tmp_path / "bench.json"
    arguments = ("--suite=search", f"--model={model}", "--repeats=2", f"--out={out}")
    status, printed, _ = jprune("bench", *arguments)
    assert status == 0 and "trials per minute" in printed and "compilations" in printed
    forward, trial = json.loads(out.read_text())["jobs"]
    assert "ratio" not in forward and trial["compilations"] == 0
    assert trial["ratio"] == pytest.approx(trial["seconds"] / forward["seconds"])
    assert trial["trials_per_minute"] == pytest.approx(60 / trial["seconds"])


@pytest.mark.parametrize("suite", bench.SUITES)
def test_targets_are_one_for_each_job(suite):
    jobs = bench.SUITES[suite](tiny(2))
    for (of, _, _), targets in bench.TARGETS.items():
        assert of != suite or {len(values) for values in targets.values()} == {len(jobs)}


def test_refusals(refused, model):
    assert "did you mean --suite=scores" in refused("bench", "--suite=score", "--shape=llama-16m")
    assert "either --shape=NAME" in refused("bench")
    assert "either --shape=NAME" in refused("bench", "--shape=llama-16m", f"--model={model}")
    assert "unknown shape 'lama2-7b'" in refused("bench", "--shape=lama2-7b")


def test_the_suite_of_retraining(jprune, model, small, tmp_path):
    out = tmp_path / "bench.json"
    arguments = ("--suite=retrain", f"--model={model}", "--repeats=1", f"--out={out}")
    status, printed, _ = jprune("bench", *arguments, "--micro_batch=2", "--remat")
    assert status == 0 and "LoRA step, 3 blocks, 4 x 16 tokens" in printed
    data = json.loads(out.read_text())
    whole, short, full = data["jobs"]
    assert short["flops"] < whole["flops"] and full["flops"] > 0
    for job in data["jobs"]:
        assert job["tokens_per_second"] == pytest.approx(4 * 16 / job["seconds"])


def test_the_suite_of_generation(jprune, model, small, tmp_path):
    out = tmp_path / "bench.json"
    arguments = ("--suite=generate", f"--model={model}", "--repeats=1", f"--out={out}")
    sizes = ("--batch=1,3", "--prompt_length=5", "--new_tokens=4")
    status, printed, _ = jprune("bench", *arguments, *sizes)
    assert status == 0 and "4 tokens after 5, batch 3" in printed and "tokens per second" in printed
    data = json.loads(out.read_text())
    one, three = data["jobs"]
    assert three["flops"] == 3 * one["flops"]
    for job, batch in ((one, 1), (three, 3)):
        assert job["tokens_per_second"] == pytest.approx(batch * 4 / job["seconds"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--suite=generate", "--batch=1,x"], "--batch=1,x: give integers from 1 on"),
        (["--batch=1"], "--batch is of the suite generate: add --suite=generate"),
        (["--remat"], "--remat is of the suite retrain: add --suite=retrain"),
    ],
)
def test_bad_sizes(refused, model, flags, message):
    assert message in refused("bench", f"--model={model}", *flags)
