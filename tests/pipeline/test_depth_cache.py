"""What a depth pruning run keeps, what it reruns, and how it is resumed."""

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from jprune.checkpoints import export_huggingface, load_tokenizer
from jprune.core.errors import InputError
from jprune.core.files import read_json, write_json
from jprune.pipeline.job import dry_run, run_config
from tests.pipeline.runs import STAGES, ran
from tests.tiny import tiny


def test_a_finished_run_loads_nothing_and_writes_nothing(finished, config, monkeypatch):
    workdir, record = finished

    def refuse(*args, **kwargs):
        raise AssertionError("a finished run loaded the model or compiled something")

    monkeypatch.setattr("jprune.pipeline.source.load_checkpoint", refuse)
    monkeypatch.setattr("jprune.pipeline.source.checkpoint_sha256", refuse)
    before = {p: p.stat().st_mtime_ns for p in workdir.rglob("*") if p.is_file()}
    again = run_config(config(), workdir, name="test")
    assert {stage["status"] for stage in again["stages"]} == {"cached"}
    for key in ("figures", "removed", "model"):
        assert again[key] == record[key]
    after = {p: p.stat().st_mtime_ns for p in workdir.rglob("*") if p.is_file()}
    assert {p for p in after if after[p] != before.get(p)} <= {
        workdir / name for name in ("run.json", ".lock")
    }
    run_config(config(), workdir, name="test")
    assert (workdir / "run.json").stat().st_mtime_ns == after[workdir / "run.json"]


EVALUATION = ["evaluate-before", "evaluate-after", "report"]
AFTER_RECIPE = ["recipe", "evaluate-after", "curve", "export", "checkpoint", "report"]


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        ({"eval_windows": 3}, EVALUATION),
        ({"eval_windows": None}, EVALUATION),
        ({"curve_windows": 1}, ["curve", "report"]),
        ({"curve_remove": 2}, ["curve", "report"]),
        ({"curve_seeds": 1}, ["baselines", "curve", "report"]),
        ({"remove": 2}, AFTER_RECIPE),
        ({"num_windows": 2}, ["calibration", "score", *AFTER_RECIPE]),
        ({"seed": 1}, ["calibration", "score", *AFTER_RECIPE]),
        ({"protect": "0"}, ["score", "baselines", *AFTER_RECIPE]),
        ({"dtype": "bfloat16"}, STAGES),
        ({"protocol": "gptq"}, ["evaluate-before", "evaluate-after", "curve", "report"]),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_a_changed_key_reruns_only_what_depends_on_it(finished, config, change, stages):
    workdir, record = finished
    again = run_config(config(**change), workdir)
    assert ran(again) == stages
    if stages == EVALUATION:
        count = again["figures"]["after"]["perplexity"][0]["protocol"]["num_windows"]
        assert count == 3 if change["eval_windows"] else count > 5
        card = (workdir / "model" / "README.md").read_text()
        assert f"{again['figures']['after']['perplexity'][0]['ppl']:.4g}" in card
        assert again["figures"]["curve"] == record["figures"]["curve"]


def test_changed_data_is_noticed(tmp_path, config, text):
    copy = tmp_path / "mine.txt"
    shutil.copy(text, copy)
    changes = {"calibration": str(copy)}
    run_config(config(**changes), tmp_path / "W")
    copy.write_text(copy.read_text() + " the dog sleeps.")
    assert ran(run_config(config(**changes), tmp_path / "W"))[:2] == ["calibration", "score"]


COPIES = ["export", "checkpoint", "report"]


def test_what_tokenizer_files_count_for(tmp_path, config, model):
    copy = shutil.copytree(model, tmp_path / "M")
    ids = np.random.default_rng(0).integers(2, 300, (6, 20)).astype(np.int32)
    np.savez(tmp_path / "w.npz", ids=ids)
    windows = f"{tmp_path / 'w.npz'}:ids"
    values = {
        "text": config(model=str(copy), curve_windows=0),
        "ids": config(model=str(copy), curve_windows=0, calibration=windows, eval=(windows,)),
    }
    for name in values:
        run_config(values[name], tmp_path / name)
    write_json(copy / "generation_config.json", {"temperature": 0.5})
    for name in values:
        assert ran(run_config(values[name], tmp_path / name)) == COPIES
        found = read_json(tmp_path / name / "model" / "generation_config.json")
        assert found == {"temperature": 0.5}
    settings = read_json(copy / "tokenizer_config.json")
    write_json(copy / "tokenizer_config.json", settings | {"model_max_length": 7})
    assert ran(run_config(values["ids"], tmp_path / "ids")) == COPIES
    assert ran(run_config(values["text"], tmp_path / "text"))[:2] == ["calibration", "score"]


def test_a_workdir_of_another_model_is_refused(finished, config, tmp_path, model):
    workdir, _ = finished
    other = tmp_path / "other"
    export_huggingface(other, tiny(4, seed=5, vocab_size=300), load_tokenizer(model))
    message = "belongs to another model: tiny .*, not other .*give another --workdir, or remove"
    for call in (run_config, dry_run):
        with pytest.raises(InputError, match=message):
            call(config(model=str(other)), workdir)
    write_json(workdir / "config.json", {"something": "else"})
    with pytest.raises(InputError, match="was not written by this job"):
        run_config(config(), workdir)


def test_the_same_model_elsewhere_is_the_same(finished, config, tmp_path, model):
    workdir, _ = finished
    shutil.copytree(model, tmp_path / "moved")
    assert ran(run_config(config(model=str(tmp_path / "moved")), workdir)) == []


SCRIPT = """
import json, sys
from jprune.pipeline.job import run_config
run_config(json.loads(sys.argv[1]), sys.argv[2])
"""


def start(values, workdir):
    import json

    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "JAX_COMPILATION_CACHE_DIR": os.environ["JAX_COMPILATION_CACHE_DIR"],
    }
    command = [sys.executable, "-c", SCRIPT, json.dumps(values), str(workdir)]
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)


def wait_for(process, condition):
    end = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < end
        time.sleep(0.002)


def test_sigkill_at_several_moments_then_the_same_figures(finished, config, tmp_path):
    _, expected = finished
    workdir = tmp_path / "killed"
    moments = ["stages/score.json", "scores/random.json", "stages/evaluate-after.json", "model"]
    for moment in moments:
        process = start(config(), workdir)
        wait_for(process, (workdir / moment).exists)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert read_json(workdir / "run.json")["stages"][-1]["status"] == "pending"
    record = run_config(config(), workdir)
    assert record["stages"][0]["status"] == "cached"
    for key in ("figures", "removed", "model"):
        assert record[key] == expected[key], key
    left = [p for p in workdir.rglob(".*") if p.name != ".lock"]
    assert left == [], "temporary files of killed runs were left behind"


def test_sigterm_saves_and_says_so(config, tmp_path):
    process = start(config(), tmp_path / "W")
    wait_for(process, (tmp_path / "W" / "stages" / "score.json").exists)
    process.terminate()
    _, err = process.communicate()
    assert "Interrupted: interrupted; run the same command again" in err
    statuses = [s["status"] for s in read_json(tmp_path / "W" / "run.json")["stages"]]
    assert statuses[0] == "done" and "running" not in statuses
    assert ran(run_config(config(), tmp_path / "W"))[-1] == "report"
