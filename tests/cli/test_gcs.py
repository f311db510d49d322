"""Commands with everything on an object store."""

import pytest

from jprune.core.files import read_json
from jprune.core.remote import UNFINISHED

RUN = (
    "--config=shortened_llama:ppl", "--config.sample=stream", "--config.remove=1",
    "--config.num_windows=3", "--config.window_length=16", "--config.eval_windows=5",
    "--config.curve_windows=0",
)  # fmt: skip


@pytest.fixture
def inputs(gcs, model, text):
    """The model and a folder of data on the store."""
    gcs.put("data/wikitext2.txt", text.read_bytes())
    return gcs.put_folder("models/tiny", model), "gs://bucket/data"


def call(jprune, *arguments):
    status, out, err = jprune(*arguments)
    assert status == 0, err
    return out, err


def test_steps_by_themselves(gcs, inputs, jprune, refused, tmp_path, model, text):
    address, data = inputs
    source = f"--model={address}"
    windows = ("--num_windows=3", "--window_length=16")
    call(
        jprune,
        "score",
        source,
        f"--data={data}/wikitext2.txt",
        *windows,
        "--out=gs://bucket/s.json",
    )
    call(
        jprune, "score", f"--model={model}", f"--data={text}", *windows, f"--out={tmp_path}/s.json"
    )
    assert read_json("gs://bucket/s.json")["scores"] == read_json(tmp_path / "s.json")["scores"]
    for beside in ("s.png", "s.windows.npz"):
        assert gcs.objects[beside] == (tmp_path / beside).read_bytes()
    call(
        jprune, "score", source, "--data=gs://bucket/s.windows.npz:ids", "--criterion=influence",
        "--out=gs://bucket/again.json",
    )  # fmt: skip
    scores = ("--scores=gs://bucket/s.json", "--remove=1")
    _, err = call(jprune, "prune", source, *scores, "--out=gs://bucket/P")
    assert "gcloud storage cp -r gs://bucket/P ." in err
    call(jprune, "prune", f"--model={model}", *scores, f"--out={tmp_path}/P")
    weights = (tmp_path / "P" / "model.safetensors").read_bytes()
    assert gcs.objects["P/model.safetensors"] == weights
    call(jprune, "apply", "--recipe=gs://bucket/P/recipe.json", "--out=gs://bucket/A")
    assert gcs.objects["A/model.safetensors"] == weights
    call(jprune, "export", "--model=gs://bucket/A", "--to=orbax", "--out=gs://bucket/O")
    call(jprune, "export", "--model=gs://bucket/O", "--to=hf", f"--out={tmp_path}/back")
    assert (tmp_path / "back" / "model.safetensors").read_bytes() == weights
    call(
        jprune, "eval", "--model=gs://bucket/O", "--data=wikitext2", f"--data_dir={data}",
        "--num_windows=2", "--out=gs://bucket/e.json",
    )  # fmt: skip
    call(
        jprune, "eval", f"--model={tmp_path}/P", f"--data={text}", "--num_windows=2",
        f"--out={tmp_path}/e.json",
    )  # fmt: skip
    ours, theirs = (read_json(f"{p}/e.json")["perplexity"] for p in ("gs://bucket", tmp_path))
    assert [e["ppl"] for e in ours] == [e["ppl"] for e in theirs]

    assert "would overwrite the model" in refused(
        "export", "--model=gs://bucket/A", "--out=gs://bucket/A/"
    )
    assert "did not write" in refused("export", "--model=gs://bucket/A", "--out=gs://bucket/data")
    assert "did you mean gs://bucket/models/tiny?" in refused(
        "export", "--model=gs://bucket/models/tinny", "--out=gs://bucket/X"
    )
    assert "did you mean 'gs://bucket/data/wikitext2.txt'?" in refused(
        "eval", source, "--data=gs://bucket/data/wikitext.txt"
    )
    assert "no such bucket: gs://buckett" in refused(
        "prune", source, "--blocks=0", "--out=gs://buckett/P"
    )


def test_runs_and_their_comparison(gcs, inputs, jprune, refused):
    address, data = inputs
    model, text = f"--config.model={address}", f"{data}/wikitext2.txt"
    files = (f"--config.calibration={text}", f"--config.eval={text}")
    for seed in (0, 1):
        call(
            jprune, "run", *RUN, model, *files, f"--config.seed={seed}",
            f"--workdir=gs://bucket/W{seed}",
        )  # fmt: skip
    out, _ = call(jprune, "report", "gs://bucket/W0", "gs://bucket/W1", "--out=gs://bucket/t.md")
    assert "W{0,1}" in out and gcs.objects["t.md"].decode().startswith("| Run")
    del gcs.buckets["bucket"]["W0/report.html"]
    call(jprune, "report", "gs://bucket/W0")
    assert "W0/report.html" in gcs.objects
    assert "the same folder" in refused("report", "gs://bucket/W0", "gs://bucket/W0/")
    assert "no workdir at gs://bucket/W7" in refused("report", "gs://bucket/W7")
    gcs.put(f"W0/model/{UNFINISHED}", b"{}")
    del gcs.buckets["bucket"]["W0/model/jprune_manifest.json"]
    assert "half-written" in refused("eval", "--model=gs://bucket/W0/model", f"--data={text}")
