"""Adapters out: what the files say, that jprune and peft read them, and who may be overwritten."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from jprune.checkpoints import export_huggingface, export_peft, load, save
from jprune.core.errors import InputError
from jprune.llama import Lora, Masked, forward, stack, unstack
from jprune.llama.kernels import is_kernel
from jprune.transforms import add_lora, fold_lora
from tests.tiny import tiny, windows

logits = jax.jit(forward)


def adapted(*, layers=2, form=lambda llama: llama, **arguments):
    """A model whose adapters have random numbers in both factors."""
    keys = iter(jax.random.split(jax.random.key(5), 100))

    def fill(kernel):
        if not isinstance(kernel, Lora):
            return kernel
        return kernel.replace(b=0.3 * jax.random.normal(next(keys), kernel.b.shape))

    llama = add_lora(**{"rank": 3, "alpha": 7} | arguments)(form(tiny(layers)))
    return jax.tree.map(fill, llama, is_leaf=is_kernel)


def config_of(folder):
    return json.loads((folder / "adapter_config.json").read_text())


@pytest.fixture
def base(tmp_path):
    export_huggingface(tmp_path / "base", tiny(2))
    return tmp_path / "base"


@pytest.mark.parametrize("form", [lambda llama: llama, stack], ids=["tuple", "stacked"])
def test_what_is_written_is_what_is_loaded(base, tmp_path, form):
    llama = adapted(form=form, dropout=0.1)
    export_peft(tmp_path / "adapter", llama, "../base", record={"how": "by hand"})
    again, expected = load(tmp_path / "adapter", adapters="keep"), unstack(llama)
    for ours, theirs in zip(again.blocks, expected.blocks, strict=True):
        assert jax.tree.structure(ours.replace(origin=None)) == jax.tree.structure(
            theirs.replace(origin=None)
        )
        jax.tree.map(np.testing.assert_array_equal, ours, theirs.replace(origin=ours.origin))
    ids = windows(2, 8)
    folded = fold_lora()(llama)
    np.testing.assert_allclose(
        logits(load(tmp_path / "adapter"), ids), logits(folded, ids), atol=1e-4
    )
    record = json.loads((tmp_path / "adapter" / "jprune_adapter.json").read_text())
    assert record == {"version": 1, "how": "by hand"}


def test_the_files(tmp_path):
    llama = adapted(targets=("q_proj", "down_proj"), dropout=0.05)
    export_peft(tmp_path, llama, "org/base", revision="v2", dtype="bfloat16", card="# Card\n")
    assert config_of(tmp_path) == {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "org/base",
        "revision": "v2",
        "r": 3,
        "lora_alpha": 7,
        "lora_dropout": 0.05,
        "target_modules": ["q_proj", "down_proj"],
        "rank_pattern": {},
        "alpha_pattern": {},
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert sorted(tensors) == [
        f"base_model.model.model.layers.{layer}.{module}.lora_{side}.weight"
        for layer in (0, 1)
        for module in ("mlp.down_proj", "self_attn.q_proj")
        for side in "AB"
    ]
    stem = "base_model.model.model.layers.1.mlp.down_proj.lora_"
    lora = llama.blocks[1].mlp.down.kernel
    for side, factor in (("A", lora.a), ("B", lora.b)):
        found = tensors[f"{stem}{side}.weight"]
        assert found.dtype == jnp.bfloat16
        np.testing.assert_array_equal(found, np.asarray(factor.astype(jnp.bfloat16)).T)
    assert (tmp_path / "README.md").read_text() == "# Card\n"


def test_adapters_that_differ_are_told_apart(base, tmp_path):
    llama = adapted(targets=("q_proj", "up_proj"))
    first, second = llama.blocks
    attn = second.attn.replace(q=tiny(2).blocks[1].attn.q)
    up = first.mlp.up.kernel
    wide = Lora(up.kernel, jnp.ones((32, 5)), jnp.ones((5, 56)), scale=2.0, dropout=up.dropout)
    first = first.replace(mlp=first.mlp.replace(up=first.mlp.up.replace(kernel=wide)))
    llama = llama.replace(blocks=(first, second.replace(attn=attn)))
    export_peft(tmp_path / "adapter", llama, str(base))
    values = config_of(tmp_path / "adapter")
    assert (values["r"], values["lora_alpha"]) == (3, 7)
    assert values["rank_pattern"] == {"model.layers.0.mlp.up_proj": 5}
    assert values["alpha_pattern"] == {"model.layers.0.mlp.up_proj": 10}
    assert values["target_modules"] == [
        "model.layers.0.self_attn.q_proj",
        "model.layers.0.mlp.up_proj",
        "model.layers.1.mlp.up_proj",
    ]
    again = load(tmp_path / "adapter", adapters="keep")
    assert again.blocks[0].mlp.up.kernel.scale == 2.0
    assert not is_kernel(again.blocks[1].attn.q.kernel)


def test_under_masks(tmp_path):
    """The masks are the base's: the adapter goes below them again."""
    llama = tiny(1)
    mask = jnp.asarray(np.random.default_rng(0).random((32, 56)) < 0.5)
    mlp = llama.blocks[0].mlp
    up = mlp.up.replace(kernel=Masked(mlp.up.kernel, mask))
    llama = llama.replace(blocks=(llama.blocks[0].replace(mlp=mlp.replace(up=up)),))
    save(tmp_path / "base", llama)
    keys = iter(jax.random.split(jax.random.key(5), 100))
    llama = jax.tree.map(
        lambda x: jax.random.normal(next(keys), x.shape) if x.shape == (3, 56) else x,
        add_lora(rank=3)(llama),
    )
    export_peft(tmp_path / "adapter", llama, "base")
    kernel = load(tmp_path / "adapter").blocks[0].mlp.up.kernel
    lora = llama.blocks[0].mlp.up.kernel.kernel
    expected = np.asarray(lora.kernel) + lora.scale * np.asarray(lora.a) @ np.asarray(lora.b)
    assert isinstance(kernel, Masked)
    np.testing.assert_allclose(kernel.kernel, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(kernel.mask, mask)


def test_an_earlier_adapter_is_replaced_and_nothing_else(tmp_path):
    export_peft(tmp_path / "out", adapted(), "base")
    export_peft(tmp_path / "out", adapted(rank=2), "base")
    assert config_of(tmp_path / "out")["r"] == 2
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "adapter_config.json").write_text("{}")
    with pytest.raises(InputError, match="holds files that jprune did not write"):
        export_peft(tmp_path / "own", adapted(), "base")


def test_what_has_no_form(tmp_path):
    with pytest.raises(InputError, match="no adapters to save; add_lora"):
        export_peft(tmp_path / "out", tiny(1), "base")
    llama = adapted(dropout=0.1)
    block = llama.blocks[0]
    lora = dataclasses.replace(block.attn.q.kernel, dropout=0.2)
    attn = block.attn.replace(q=block.attn.q.replace(kernel=lora))
    llama = llama.replace(blocks=(block.replace(attn=attn), llama.blocks[1]))
    with pytest.raises(InputError, match=r"one dropout rate for all adapters, and .* 0\.1, 0\.2"):
        export_peft(tmp_path / "out", llama, "base")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("case", ["uniform", "different"])
@pytest.mark.parity
def test_peft_computes_the_same(base, tmp_path, case):
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    llama = adapted()
    if case == "different":
        block = llama.blocks[1]
        lora = block.mlp.up.kernel
        narrow = Lora(lora.kernel, lora.a[:, :2], lora.b[:2], 0.7, lora.dropout)
        mlp = block.mlp.replace(
            up=block.mlp.up.replace(kernel=narrow), down=tiny(2).blocks[1].mlp.down
        )
        llama = llama.replace(blocks=(llama.blocks[0], block.replace(mlp=mlp)))
    export_peft(tmp_path / "adapter", llama, str(base))
    plain = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter").eval()
    ids = windows(2, 16)
    with torch.no_grad():
        expected = model(torch.tensor(ids, dtype=torch.long)).logits.numpy()
    np.testing.assert_allclose(logits(llama, ids), expected, atol=2e-4)
    assert np.abs(logits(llama, ids) - logits(tiny(2), ids)).max() > 1
