"""PEFT LoRA adapters as models: folded, kept, and refused."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import save_file

from jprune.checkpoints import export_huggingface, load, load_checkpoint
from jprune.core import InputError
from jprune.core import mesh as meshes
from jprune.evaluate import perplexity
from jprune.llama import forward
from jprune.llama.kernels import Lora, is_kernel
from jprune.transforms import drop_blocks
from tests.tiny import tiny, windows

logits = jax.jit(forward)
Q, UP = "model.layers.{}.self_attn.q_proj", "model.layers.{}.mlp.up_proj"


@pytest.fixture
def write(tmp_path):
    """Writes a base and an adapter on it; gives the adapter's folder, its factors, and the base."""
    base = tiny(2)
    export_huggingface(tmp_path / "base", base)

    def write(config=None, rank=3, drop=(), extra=None, name="adapter"):
        rng = np.random.default_rng(0)
        factors = {}
        for module, (rows, columns) in {Q: (32, 32), UP: (32, 56)}.items():
            for layer in range(2):
                stem = f"base_model.model.{module.format(layer)}"
                factors[f"{stem}.lora_A.weight"] = rng.normal(size=(rank, rows))
                factors[f"{stem}.lora_B.weight"] = rng.normal(size=(columns, rank))
        factors = {k: v.astype(np.float32) for k, v in factors.items() if k not in drop}
        folder = tmp_path / name
        folder.mkdir()
        values = {
            "peft_type": "LORA",
            "base_model_name_or_path": str(tmp_path / "base"),
            "r": rank,
            "lora_alpha": 6,
            "target_modules": ["q_proj", "up_proj"],
        }
        (folder / "adapter_config.json").write_text(json.dumps(values | (config or {})))
        save_file(factors | (extra or {}), folder / "adapter_model.safetensors")
        return folder, factors, base

    return write


def updated(kernel, factors, module, scale):
    a, b = (factors[f"base_model.model.{module}.lora_{side}.weight"] for side in "AB")
    return np.asarray(kernel) + scale * (b @ a).T


@pytest.mark.parametrize(
    ("config", "scales"),
    [
        ({}, (2.0, 2.0)),
        ({"use_rslora": True}, (6 / 3**0.5, 6 / 3**0.5)),
        ({"alpha_pattern": {"up_proj": 9}}, (2.0, 3.0)),
        ({"lora_alpha": 1.5}, (0.5, 0.5)),
    ],
)
def test_folding_adds_the_scaled_product(write, config, scales):
    folder, factors, base = write(config)
    llama = load(folder)
    for layer, block in enumerate(llama.blocks):
        old = base.blocks[layer]
        for module, kernel, plain, scale in (
            (Q, block.attn.q.kernel, old.attn.q.kernel, scales[0]),
            (UP, block.mlp.up.kernel, old.mlp.up.kernel, scales[1]),
        ):
            expected = updated(plain, factors, module.format(layer), scale)
            np.testing.assert_allclose(kernel, expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_array_equal(block.attn.k.kernel, old.attn.k.kernel)
    assert not [leaf for leaf in jax.tree.leaves(llama, is_leaf=is_kernel) if is_kernel(leaf)]


def test_kept_adapters_compute_what_folded_ones_do(write):
    folder, _, _ = write({"lora_dropout": 0.05})
    kept = load_checkpoint(folder, adapters="keep").llama
    kernel = kept.blocks[1].mlp.up.kernel
    assert isinstance(kernel, Lora) and (kernel.scale, kernel.dropout) == (2.0, 0.05)
    assert not is_kernel(kept.blocks[1].mlp.down.kernel)
    ids = windows(2, 12)
    np.testing.assert_allclose(logits(kept, ids), logits(load(folder), ids), atol=2e-4)


@pytest.mark.parametrize("adapters", ["fold", "keep"])
def test_on_the_host(write, adapters):
    folder, _, _ = write()
    expected = load(folder, adapters=adapters)
    llama = load(folder, shardings="host", adapters=adapters)
    assert {type(leaf) for leaf in jax.tree.leaves(llama)} == {np.ndarray}
    assert jax.tree.structure(llama) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, llama, expected)


def test_the_checkpoint_is_the_adapters(write):
    folder, _, _ = write()
    checkpoint = load_checkpoint(folder)
    assert checkpoint.name == "adapter" and checkpoint.recipe is None
    assert {origin.source for origin in checkpoint.llama.origins} == {"adapter"}
    other, _, _ = write({"lora_alpha": 7}, name="other")
    same, _, _ = write(name="same")
    assert checkpoint.sha256 == load_checkpoint(same).sha256 != load_checkpoint(other).sha256


@pytest.mark.parametrize("base", ["base", "../base"])
def test_the_base_may_be_named_from_the_adapter(write, base):
    folder, _, _ = write({"base_model_name_or_path": base})
    assert load(folder).num_layers == 2


def test_an_adapter_on_a_pruned_base_that_fits_no_more(write, tmp_path):
    folder, _, base = write()
    export_huggingface(tmp_path / "shorter", drop_blocks([1])(base))
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tmp_path / "shorter")
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"layers\.1.*set base_model_name_or_path in "):
        load(folder)


def test_on_a_mesh(write):
    folder, _, _ = write()
    alone, ids = load(folder), windows(2, 12)
    with meshes.use_mesh("fsdp:2,tensor:4"):
        spread = load(folder)
        found = np.asarray(logits(spread, ids))
    assert spread.blocks[0].attn.q.kernel.sharding.shard_shape((32, 32)) == (16, 8)
    np.testing.assert_allclose(found, logits(alone, ids), atol=2e-4)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"fan_in_fan_out": True}, "fan_in_fan_out"),
        ({"peft_type": "IA3"}, "IA3"),
        ({"r": 0}, "r "),
        ({"r": 4}, "have rank 3, but .*adapter_config.json says 4: set r there to 3, or rank_pat"),
        ({"rank_pattern": {"q_proj": 5}}, "the factors of .*q_proj in .* rank 3, but .* says 5"),
        ({"base_model_name_or_path": "/nowhere/at/all"}, "is no folder"),
        ({"alpha_pattern": {"(": 2}}, "invalid pattern"),
    ],
)
def test_configs_that_are_refused(write, config, message):
    folder, _, _ = write(config)
    with pytest.raises(InputError, match=message):
        load(folder)


def test_factors_that_do_not_fit_each_other_or_the_base(write):
    a, b = (f"base_model.model.{Q.format(0)}.lora_{side}.weight" for side in "AB")
    folder, _, _ = write(extra={a: np.zeros((2, 32), np.float32)}, name="ranks")
    with pytest.raises(InputError, match="have ranks 2 and 3; save or download the adapter again"):
        load(folder)
    # Of another base: its width is what matters, whatever the rank.
    for name, values in {a: (4, 40), b: (40, 3)}.items():
        folder, _, _ = write(extra={name: np.zeros(values, np.float32)}, name=name)
        with pytest.raises(InputError, match=r"on base base, .* set base_model_name_or_path in "):
            load(folder)


def test_tensors_that_are_refused(write):
    half = "base_model.model.model.layers.1.mlp.up_proj.lora_B.weight"
    folder, _, _ = write(drop=[half], name="half")
    with pytest.raises(InputError, match=f"tensor {half} is missing"):
        load(folder)
    extra = {"base_model.model.lm_head.weight": np.zeros((97, 32), np.float32)}
    folder, _, _ = write(extra=extra, name="extra")
    with pytest.raises(InputError, match="lm_head.*merge it into its base with peft"):
        load(folder)
    folder, _, _ = write(name="cut")
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(InputError, match="is truncated"):
        load(folder)
    file.unlink()
    with pytest.raises(InputError, match="adapter_model.safetensors"):
        load(folder)


def test_an_adapter_on_an_adapter_is_refused(write):
    folder, _, _ = write()
    second, _, _ = write({"base_model_name_or_path": str(folder)}, name="second")
    with pytest.raises(InputError, match="is an adapter itself; export the base first"):
        load(second)


@pytest.mark.parametrize("name", ["math", "code", "chat"])
@pytest.mark.parity
def test_real_adapters_against_peft(shared, name):
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    folder = shared / "models" / f"llama-16m-{name}"
    base = transformers.AutoModelForCausalLM.from_pretrained(
        shared / "models" / "llama-16m", dtype=torch.float32
    )
    model = peft.PeftModel.from_pretrained(base, folder).merge_and_unload().eval()
    ids = np.random.default_rng(0).integers(0, 4096, (2, 65)).astype(np.int32)
    with torch.no_grad():
        expected = model(torch.tensor(ids, dtype=torch.long)).logits.numpy()
    for adapters in ("fold", "keep"):
        llama = load_checkpoint(folder, "float32", adapters=adapters).llama
        np.testing.assert_allclose(logits(llama, ids), expected, atol=2e-4)


def test_every_command_takes_an_adapter(write, tmp_path):
    from jprune.cli.main import main

    folder, _, _ = write()
    np.savez(tmp_path / "ids.npz", ids=windows(4, 12))
    data = f"{tmp_path / 'ids.npz'}:ids"
    out = tmp_path / "pruned"
    assert main(["prune", f"--model={folder}", "--blocks=0", f"--out={out}"]) == 0
    recipe = json.loads((out / "recipe.json").read_text())
    assert recipe["sources"][0]["name"] == "adapter"
    again = tmp_path / "again"
    assert main(["apply", f"--recipe={out / 'recipe.json'}", f"--out={again}"]) == 0
    files = [path / "model.safetensors" for path in (out, again)]
    assert files[0].read_bytes() == files[1].read_bytes()
    workdir = tmp_path / "run"
    keys = {"model": folder, "calibration": data, "eval": data, "remove": 1, "curve_windows": 0}
    flags = [f"--config.{key}={value}" for key, value in keys.items()]
    assert main(["run", "--config=shortened_llama:ppl", f"--workdir={workdir}", *flags]) == 0
    figures = json.loads((workdir / "run.json").read_text())["figures"]
    whole = load(folder)
    expected = perplexity(whole, windows(4, 12)).ppl
    assert figures["before"]["perplexity"][0]["ppl"] == pytest.approx(expected, rel=1e-5)


def test_an_adapter_on_an_object_store_finds_its_base_there(write, gcs, tmp_path):
    folder, *_ = write({"base_model_name_or_path": "../base"})
    gcs.put_folder("models", tmp_path)
    ours, local = load_checkpoint("gs://bucket/models/adapter"), load_checkpoint(folder)
    jax.tree.map(np.testing.assert_array_equal, ours.llama, local.llama)
    assert ours.sha256 == local.sha256
