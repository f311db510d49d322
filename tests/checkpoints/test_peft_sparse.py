"""Adapters on sparse bases: what is zero stays zero, and the log says what that costs."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from jprune.checkpoints import export_huggingface, load, load_checkpoint, save
from jprune.cli.main import main
from jprune.llama import Masked
from jprune.llama.kernels import Lora
from jprune.scores import sparsify
from tests.pipeline.runs import ppl
from tests.tiny import tiny, windows


@pytest.fixture(params=["hf", "orbax"])
def adapter(tmp_path, request):
    """An adapter on the MLPs' up projections of a base at 50%, the base, and the update."""
    base = sparsify(tiny(2), "magnitude", density=0.5).llama
    write = export_huggingface if request.param == "hf" else save
    write(tmp_path / "base", base)
    rng, factors, updates = np.random.default_rng(0), {}, []
    for layer in range(2):
        a, b = rng.normal(size=(3, 32)), rng.normal(size=(56, 3))
        stem = f"base_model.model.model.layers.{layer}.mlp.up_proj.lora_"
        factors |= {f"{stem}A.weight": a, f"{stem}B.weight": b}
        updates.append(2.0 * (b @ a).T)
    folder = tmp_path / "adapter"
    folder.mkdir()
    save_file(
        {k: v.astype(np.float32) for k, v in factors.items()}, folder / "adapter_model.safetensors"
    )
    values = {
        "peft_type": "LORA",
        "base_model_name_or_path": str(tmp_path / "base"),
        "r": 3,
        "lora_alpha": 6,
        "target_modules": ["up_proj"],
    }
    (folder / "adapter_config.json").write_text(json.dumps(values))
    return folder, base, updates


def test_zeros_stay_zero(adapter, caplog):
    folder, base, updates = adapter
    checkpoint = load_checkpoint(folder)
    assert "what the adapter adds to its zeros is left out" in caplog.text
    for old, new, update in zip(base.blocks, checkpoint.llama.blocks, updates, strict=True):
        before = np.asarray(old.mlp.up.kernel)
        wanted = np.where(before != 0, before + update, 0)
        np.testing.assert_allclose(new.mlp.up.kernel, wanted, atol=1e-4)
        np.testing.assert_array_equal(new.mlp.down.kernel, old.mlp.down.kernel)
    for old, new, update in zip(base.blocks, checkpoint.filled().blocks, updates, strict=True):
        before = np.asarray(old.mlp.up.kernel)
        np.testing.assert_allclose(new.mlp.up.kernel, before + update, atol=1e-4)


def test_kept_it_is_below_the_mask(adapter):
    folder, base, _ = adapter
    for old, new in zip(base.blocks, load(folder, adapters="keep").blocks, strict=True):
        kernel = new.mlp.up.kernel
        assert isinstance(kernel, Masked) and isinstance(kernel.kernel, Lora)
        np.testing.assert_array_equal(kernel.mask, np.asarray(old.mlp.up.kernel) != 0)


def test_the_log_has_both_losses(adapter, tmp_path, capsys):
    folder, _, _ = adapter
    ids = windows(3, 16)
    np.savez(tmp_path / "ids.npz", ids=ids)
    assert main(["eval", f"--model={folder}", f"--data={tmp_path / 'ids.npz'}:ids"]) == 0
    checkpoint = load_checkpoint(folder)
    with_all, masked = (np.log(ppl(x, ids)) for x in (checkpoint.filled(), checkpoint.llama))
    said = f"NLL {with_all:.4f} with all that the adapter adds, {masked:.4f} with the zeros"
    assert said in capsys.readouterr().err


def test_on_a_dense_base_nothing_is_left_out(tmp_path, adapter, caplog):
    folder, _, _ = adapter
    export_huggingface(tmp_path / "dense", tiny(2))
    values = json.loads((folder / "adapter_config.json").read_text())
    values["base_model_name_or_path"] = str(tmp_path / "dense")
    (folder / "adapter_config.json").write_text(json.dumps(values))
    caplog.clear()
    assert load_checkpoint(folder).filled is None and "left out" not in caplog.text
