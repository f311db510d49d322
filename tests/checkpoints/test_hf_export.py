import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jprune.checkpoints.hf_export import export_huggingface
from jprune.checkpoints.hf_import import import_huggingface
from jprune.checkpoints.tokenizer import load_tokenizer
from jprune.core.errors import InputError
from jprune.llama.kernels import Lora, Masked
from jprune.llama.model import Run
from jprune.llama.stack import stack
from jprune.transforms import narrow


def without(llama, attention=(), mlp=()):
    """`llama` with the sublayers at these indices removed."""
    blocks = list(llama.blocks)
    for index in attention:
        blocks[index] = blocks[index].replace(attn=None, attn_norm=None)
    for index in mlp:
        blocks[index] = blocks[index].replace(mlp=None, mlp_norm=None)
    return llama.replace(blocks=tuple(blocks))


def keep(llama, indices):
    return llama.replace(blocks=tuple(llama.blocks[i] for i in indices))


def renumbered(tensors, kept):
    """The tensors of the layers in `kept`, numbered from 0, and those outside layers."""
    found = {}
    for name, values in tensors.items():
        words = name.split(".")
        if words[1] == "layers":
            for new, old in enumerate(kept):
                if int(words[2]) == old:
                    found[".".join([*words[:2], str(new), *words[3:]])] = values
        else:
            found[name] = values
    return found


@pytest.fixture
def loaded(tmp_path, tiny, write):
    config, tensors = tiny()
    return import_huggingface(write(tmp_path / "base", config, tensors)), tensors


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize(
    "changes",
    [{}, {"tie_word_embeddings": True}, {"attention_bias": True, "mlp_bias": True}],
    ids=["plain", "tied", "biases"],
)
@pytest.mark.parametrize("shards", [1, 3])
def test_import_then_export_is_bit_identical(
    tmp_path, tiny, write, read, same, kind, changes, shards
):
    config, tensors = tiny(dtype=jnp.dtype(kind), **changes)
    config["dtype"] = kind
    write(tmp_path / "a", config, tensors, shards)
    llama = import_huggingface(tmp_path / "a", "checkpoint")
    export_huggingface(tmp_path / "b", llama)
    same(read(tmp_path / "b"), tensors)
    assert json.loads((tmp_path / "b" / "config.json").read_text()) == config


@pytest.mark.parametrize("model", ["llama-16m", "stories260k"])
def test_published_models_round_trip_bit_for_bit(tmp_path, shared, read, same, model):
    folder = shared / "models" / model
    for dtype, out in (("checkpoint", None), (None, "checkpoint")):
        llama = import_huggingface(folder, dtype)
        export_huggingface(tmp_path / "out", llama, load_tokenizer(folder), dtype=out)
        same(read(tmp_path / "out"), read(folder))
    original = json.loads((folder / "config.json").read_text())
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == original
    for file in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "out" / file).read_bytes() == (folder / file).read_bytes()


def test_exports_in_the_dtype_of_the_arrays_unless_told_otherwise(tmp_path, loaded, read, bf16):
    llama, tensors = loaded
    export_huggingface(tmp_path / "b", llama, dtype="bf16")
    assert json.loads((tmp_path / "b" / "config.json").read_text())["dtype"] == "bfloat16"
    found = read(tmp_path / "b")["model.layers.1.mlp.up_proj.weight"]
    assert (found == tensors["model.layers.1.mlp.up_proj.weight"].astype(bf16)).all()
    assert import_huggingface(tmp_path / "b", "checkpoint").dtype == bf16


def test_dropped_blocks_are_gone_and_the_rest_renumbered(tmp_path, loaded, read, same):
    llama, tensors = loaded
    export_huggingface(tmp_path / "b", keep(llama, [0, 2]))
    same(read(tmp_path / "b"), renumbered(tensors, [0, 2]))
    assert json.loads((tmp_path / "b" / "config.json").read_text())["num_hidden_layers"] == 2


def test_per_layer_lists_follow_the_origins(tmp_path, tiny, write):
    write(tmp_path / "a", *tiny(layer_types=["x", "y", "z"]))
    llama = import_huggingface(tmp_path / "a")
    export_huggingface(tmp_path / "b", keep(llama, [2, 0]))
    assert json.loads((tmp_path / "b" / "config.json").read_text())["layer_types"] == ["z", "x"]


def test_small_shards(tmp_path, loaded, read, same):
    llama, tensors = loaded
    export_huggingface(tmp_path / "b", llama, max_shard_bytes=4000)
    files = sorted(tmp_path.glob("b/*.safetensors"))
    assert len(files) > 3 and files[0].name == f"model-00001-of-{len(files):05d}.safetensors"
    same(read(tmp_path / "b"), tensors)
    again = import_huggingface(tmp_path / "b")
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), again.embed, llama.embed))


def test_stacked_models_are_written_layer_by_layer(tmp_path, loaded, read, same):
    llama, tensors = loaded
    stacked = stack(keep(llama, [0, 2]))
    assert isinstance(stacked.blocks[0], Run)
    export_huggingface(tmp_path / "b", stacked)
    same(read(tmp_path / "b"), renumbered(tensors, [0, 2]))


def test_adapters_and_masks_are_folded(tmp_path, loaded, read):
    llama, tensors = loaded
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=(16, 2)).astype("f"), rng.normal(size=(2, 24)).astype("f")
    mask = rng.random((16, 24)) < 0.5
    block = llama.blocks[1]
    kernel = Masked(
        Lora(block.mlp.up.kernel, jnp.asarray(a), jnp.asarray(b), 0.5), jnp.asarray(mask)
    )
    wrapped = block.replace(mlp=block.mlp.replace(up=block.mlp.up.replace(kernel=kernel)))
    changed = llama.replace(blocks=(llama.blocks[0], wrapped, llama.blocks[2]))
    export_huggingface(tmp_path / "b", changed)
    weight = tensors["model.layers.1.mlp.up_proj.weight"].T
    found = read(tmp_path / "b")["model.layers.1.mlp.up_proj.weight"].T
    np.testing.assert_allclose(found, (weight + 0.5 * a @ b) * mask, rtol=1e-5, atol=1e-6)
    assert (found[~mask] == 0).all()


class TestRemovedSublayers:
    def test_are_written_as_zeros(self, tmp_path, tiny, write, read, caplog):
        config, tensors = tiny(attention_bias=True)
        llama = import_huggingface(write(tmp_path / "base", config, tensors))
        export_huggingface(tmp_path / "b", without(llama, attention=[1], mlp=[2]))
        found = read(tmp_path / "b")
        assert found.keys() == tensors.keys()
        for name, values in found.items():
            gone = "layers.1.self_attn" in name or "layers.2.mlp" in name
            norm = "layers.1.input_layernorm" in name or "layers.2.post_attention" in name
            expected = 0 * tensors[name] if gone else 0 * values + 1 if norm else tensors[name]
            assert (values == expected).all(), name
            assert values.shape == tensors[name].shape
        note = "attention of layer 1 (layer 1 of base)"
        assert note in caplog.text and note in (tmp_path / "b" / "README.md").read_text()
        assert "mlp of layer 2 (layer 2 of base)" in caplog.text

    def test_are_refused_when_strict(self, tmp_path, loaded):
        with pytest.raises(InputError, match=r"mlp of layer 0 .* have no Hugging Face form"):
            export_huggingface(tmp_path / "b", without(loaded[0], mlp=[0]), strict=True)
        assert not (tmp_path / "b").exists()
        export_huggingface(tmp_path / "b", loaded[0], strict=True)

    def test_a_block_without_either_is_left_out(self, tmp_path, loaded, read, same):
        llama, tensors = loaded
        export_huggingface(tmp_path / "b", without(llama, attention=[1], mlp=[1]), strict=True)
        same(read(tmp_path / "b"), renumbered(tensors, [0, 2]))

    def test_nothing_left(self, tmp_path, loaded):
        empty = without(loaded[0], attention=[0, 1, 2], mlp=[0, 1, 2])
        with pytest.raises(InputError, match="nothing to export"):
            export_huggingface(tmp_path / "b", empty)

    def test_all_of_one_kind(self, tmp_path, loaded, read):
        export_huggingface(tmp_path / "b", without(loaded[0], attention=[0, 1, 2]))
        found = read(tmp_path / "b")["model.layers.2.self_attn.k_proj.weight"]
        assert found.shape == (8, 16) and (found == 0).all()


def test_widths_come_from_the_arrays(tmp_path, loaded, read):
    llama, tensors = loaded
    thin = narrow(neurons=3 * [range(6)])(llama)
    export_huggingface(tmp_path / "b", thin)
    assert json.loads((tmp_path / "b" / "config.json").read_text())["intermediate_size"] == 6
    found = read(tmp_path / "b")["model.layers.0.mlp.down_proj.weight"]
    assert (found == tensors["model.layers.0.mlp.down_proj.weight"][:, :6]).all()
    assert import_huggingface(tmp_path / "b").num_layers == 3


def test_the_tie_comes_from_the_arrays(tmp_path, loaded, read):
    export_huggingface(tmp_path / "b", loaded[0].replace(lm_head=None))
    assert json.loads((tmp_path / "b" / "config.json").read_text())["tie_word_embeddings"] is True
    assert "lm_head.weight" not in read(tmp_path / "b")


def test_everything_beside_the_weights_goes_along(tmp_path, loaded):
    source = tmp_path / "base"
    files = {
        "tokenizer.json": "{}",
        "tokenizer_config.json": "{}",
        "chat_template.jinja": "{{ x }}",
        "generation_config.json": '{"top_p": 0.9}',
        "LICENSE.txt": "terms",
        "additional_chat_templates/tool.jinja": "t",
    }
    (source / "additional_chat_templates").mkdir()
    for name, text in files.items():
        (source / name).write_text(text)
    (source / "notes.txt").write_text("stays")
    recipe = {
        "version": 1,
        "sources": [],
        "steps": [{"op": "drop_blocks", "args": {"blocks": [1]}}],
    }
    export_huggingface(tmp_path / "b", loaded[0], load_tokenizer(source), recipe)
    for name, text in files.items():
        assert (tmp_path / "b" / name).read_text() == text
    assert json.loads((tmp_path / "b" / "recipe.json").read_text()) == recipe
    assert "removes blocks 1" in (tmp_path / "b" / "README.md").read_text()
    assert not (tmp_path / "b" / "notes.txt").exists()


def test_the_callers_card_is_used_as_it_is(tmp_path, loaded):
    export_huggingface(tmp_path / "b", loaded[0], card="# mine\n")
    assert (tmp_path / "b" / "README.md").read_text() == "# mine\n"


def test_a_failure_half_way_leaves_nothing_behind(tmp_path, loaded, monkeypatch):
    llama = loaded[0]
    export_huggingface(tmp_path / "b", llama)
    before = {f.name: f.read_bytes() for f in (tmp_path / "b").iterdir()}

    def killed(*args):
        raise KeyboardInterrupt

    # The weights are written by the time that the tokenizer's turn comes.
    monkeypatch.setattr("jprune.checkpoints.hf_export.write_companions", killed)
    for name in ("b", "c"):
        with pytest.raises(KeyboardInterrupt):
            export_huggingface(tmp_path / name, keep(llama, [0]))
    assert {f.name for f in tmp_path.iterdir()} == {"base", "b"}
    assert {f.name: f.read_bytes() for f in (tmp_path / "b").iterdir()} == before


def test_a_full_disk_is_one_clear_line(tmp_path, loaded, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("jprune.checkpoints.hf_export.write_checkpoint", full)
    with pytest.raises(InputError, match="cannot write .*b: No space left on device"):
        export_huggingface(tmp_path / "b", loaded[0])
    assert not (tmp_path / "b").exists()


def test_a_model_that_jprune_did_not_write_is_never_replaced(tmp_path, loaded, read, same):
    llama, tensors = loaded
    with pytest.raises(InputError, match="base exists and holds files that jprune did not write"):
        export_huggingface(tmp_path / "base", keep(llama, [1]))
    same(read(tmp_path / "base"), tensors)


def test_an_export_without_recipe_says_so_and_can_be_replaced(tmp_path, loaded, read, same):
    llama, tensors = loaded
    export_huggingface(tmp_path / "b", llama)
    recipe = json.loads((tmp_path / "b" / "recipe.json").read_text())
    assert recipe == {"version": 1, "sources": [], "steps": []}
    export_huggingface(tmp_path / "b", keep(llama, [1]))
    same(read(tmp_path / "b"), renumbered(tensors, [1]))


def test_a_model_that_never_was_a_file(tmp_path, loaded, read, same):
    llama, tensors = loaded
    bare = llama.replace(
        config=dataclasses.replace(llama.config, source=""),
        blocks=tuple(block.replace(origin=None) for block in llama.blocks),
    )
    export_huggingface(tmp_path / "b", bare)
    same(read(tmp_path / "b"), tensors)
    assert import_huggingface(tmp_path / "b").config.rope == llama.config.rope
