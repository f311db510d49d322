"""`jprune search`: `jprune run` for the configs of searches."""

import json


def test_a_search(jprune, model, text, tmp_path):
    file = tmp_path / "a.jsonl"
    sentences = text.read_text().split(".")
    file.write_text("\n".join(json.dumps({"text": s * 9}) for s in sentences if s.strip()))
    keys = {
        "model": model, "objectives": file, "eval": "", "remove": 1, "trials": 4,
        "search_windows": 4, "eval_windows": 2, "compare": "",
    }  # fmt: skip
    words = [f"--config.{key}={value}" for key, value in keys.items()]
    call = ["search", "--config=search_depth", f"--workdir={tmp_path / 'W'}", *words]
    status, out, err = jprune(*call)
    assert status == 0 and "removed 1 of 4 blocks" in out, err
    said = " ".join(out.split())
    assert "4 candidates were tried" in said and "It was set beside no other model" in said
    assert "searched removal (by evolution)" in out and "Perplexity:" not in out
    record = json.loads((tmp_path / "W" / "run.json").read_text())
    assert record["search"]["trials"]["complete"] >= 1
    status, out, _ = jprune(*call, "--dry_run")
    assert status == 0 and "search" in out and "cached" in out


def test_other_configs(refused, model, tmp_path):
    line = refused("search", "--config=demo", f"--workdir={tmp_path / 'W'}")
    assert "demo is no search but a depth run: call `jprune run`" in line
