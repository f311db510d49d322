"""Downloads through the real client of the hub, from a stand-in on localhost."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import save_file

from jprune.checkpoints import export_huggingface
from tests.standins.hub import serving
from tests.tiny import tiny

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def hub():
    with serving() as running:
        yield running


@pytest.fixture(scope="module")
def model(hub, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hub") / "model"
    export_huggingface(folder, tiny(2))
    (folder / "pytorch_model.bin").write_bytes(b"never wanted")
    hub.repositories["org/model"] = folder
    return folder


@pytest.fixture
def prune(hub, tmp_path):
    """Prunes a model of the hub in a process of its own, since its client reads HF_* once."""

    def prune(name, out="out", **changes):
        env = {
            **os.environ,
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DOWNLOAD_TIMEOUT": "5",
            "HF_HUB_ETAG_TIMEOUT": "5",
            "PYTHONPATH": str(ROOT),
            **changes,
        }
        command = ["prune", f"--model={name}", "--blocks=0", f"--out={tmp_path / out}"]
        done = subprocess.run(
            [sys.executable, "-m", "jprune", *command],
            env=env,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return done.returncode, done.stderr, tmp_path / out

    return prune


def weights(folder):
    return (folder / "model.safetensors").read_bytes()


def test_a_model_and_what_is_asked_for(hub, model, prune, tmp_path):
    status, err, out = prune("org/model")
    assert status == 0, err
    export_huggingface(tmp_path / "expected", tiny(2).replace(blocks=tiny(2).blocks[1:]))
    assert weights(out) == weights(tmp_path / "expected")
    asked = [path for _, path, _ in hub.requests]
    assert any("model.safetensors" in path for path in asked)
    assert not any("pytorch_model.bin" in path for path in asked if "/resolve/" in path)


def test_a_download_that_broke_off_is_completed(hub, model, prune):
    hub.cut.add("model.safetensors")
    first, err, _ = prune("org/model", "first")
    assert not hub.cut
    second, err, out = prune("org/model", "second")
    assert second == 0, err
    if first:  # a client that does not try again by itself
        assert err.count("error:") == 1
    cached = [path for path in out.parent.rglob("model.safetensors") if "snapshots" in path.parts]
    assert len(cached) == 1 and cached[0].read_bytes() == weights(model)


def test_a_complete_download_needs_no_network(hub, model, prune):
    assert prune("org/model")[0] == 0
    status, err, _ = prune("org/model", "again", HF_HUB_OFFLINE="1")
    assert status == 0, err


def refusal(err):
    lines = [line for line in err.splitlines() if "error:" in line]
    assert len(lines) == 1, err
    return lines[0]


@pytest.mark.parametrize(
    ("refused", "message"),
    [
        ((403, "GatedRepo"), "is gated on the Hugging Face Hub: accept its terms there and log in"),
        ((404, "RepoNotFound"), "no such model on the Hugging Face Hub"),
        ((401, "RepoNotFound"), "a private one needs hf auth login"),
    ],
)
def test_models_that_may_not_be_read(hub, model, prune, refused, message):
    hub.refused["org/closed"] = refused
    status, err, _ = prune("org/closed")
    assert status == 2 and message in refusal(err)


def test_a_repository_without_safetensors(hub, prune, tmp_path):
    folder = tmp_path / "bare"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (folder / "pytorch_model.bin").write_bytes(b"x")
    hub.repositories["org/bare"] = folder
    status, err, _ = prune("org/bare")
    assert status == 2 and "has no weights: expected model.safetensors" in refusal(err)


def test_nobody_there(prune):
    status, err, _ = prune("org/model", HF_ENDPOINT="http://127.0.0.1:9")
    assert status == 2 and "cannot be downloaded from the Hugging Face Hub" in refusal(err)
    status, err, _ = prune("org/model", HF_HUB_OFFLINE="1")
    assert status == 2 and "connect to the network, or give a local folder" in refusal(err)


def test_an_adapter_and_its_base(hub, model, prune, tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    settings = {"peft_type": "LORA", "base_model_name_or_path": "org/model", "r": 2}
    (folder / "adapter_config.json").write_text(json.dumps(settings | {"lora_alpha": 2}))
    stem = "base_model.model.model.layers.1.mlp.up_proj"
    factors = {"A": np.ones((2, 32), np.float32), "B": np.ones((56, 2), np.float32)}
    tensors = {f"{stem}.lora_{side}.weight": values for side, values in factors.items()}
    save_file(tensors, folder / "adapter_model.safetensors")
    hub.repositories["org/adapter"] = folder
    status, err, out = prune("org/adapter")
    assert status == 0, err
    from jprune.checkpoints import load

    kernel, plain = load(out).blocks[0].mlp.up.kernel, tiny(2).blocks[1].mlp.up.kernel
    np.testing.assert_allclose(kernel, plain + 2, rtol=1e-6)
