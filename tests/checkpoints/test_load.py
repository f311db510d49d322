import json
import tracemalloc

import jax
import numpy as np
import pytest

from jprune.checkpoints import checkpoint_sha256, export_huggingface, load, load_checkpoint, save
from jprune.checkpoints.load import form_of
from jprune.checkpoints.placement import bytes_per_device
from jprune.core.errors import InputError
from jprune.llama import stack

RECIPE = {"version": 1, "sources": [{"name": "base"}], "steps": [{"op": "x", "args": {}}]}


@pytest.fixture
def base(tmp_path, tiny, write):
    return write(tmp_path / "base", *tiny())


def equal(a, b):
    return jax.tree.structure(a) == jax.tree.structure(b) and jax.tree.all(
        jax.tree.map(lambda x, y: bool((x == y).all()), a, b)
    )


def test_both_forms_are_detected_and_hold_the_same(tmp_path, base):
    checkpoint = load_checkpoint(base)
    assert (checkpoint.name, checkpoint.recipe, checkpoint.tokenizer) == ("base", None, None)
    save(tmp_path / "o", checkpoint.llama, recipe=RECIPE)
    export_huggingface(tmp_path / "h", checkpoint.llama, recipe=RECIPE)
    assert [form_of(tmp_path / name) for name in "oh"] == ["orbax", "huggingface"]
    assert equal(load(tmp_path / "o"), checkpoint.llama)
    assert load_checkpoint(tmp_path / "o").recipe == RECIPE
    again = load_checkpoint(tmp_path / "h")
    assert again.recipe == RECIPE
    assert again.llama.origins[0].source == "h"  # an export is a model of its own
    assert load_checkpoint(tmp_path / "o").llama.origins[0].source == "base"


def test_a_saved_model_without_recipe_has_none(tmp_path, base):
    save(tmp_path / "o", load(base))
    export_huggingface(tmp_path / "h", load(base))
    assert load_checkpoint(tmp_path / "o").recipe is None
    assert load_checkpoint(tmp_path / "h").recipe is None


def test_dtype_and_shardings_reach_both_forms(tmp_path, base, bf16):
    save(tmp_path / "o", load(base))
    mesh = jax.make_mesh((1,), ("fsdp",))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
    for path in (base, tmp_path / "o"):
        llama = load(path, "bfloat16", shardings=spread)
        assert llama.dtype == bf16 and llama.embed.sharding == spread


def test_tokenizer_files_travel(tmp_path, base):
    (base / "tokenizer.json").write_text("{}")
    checkpoint = load_checkpoint(base)
    save(tmp_path / "o", checkpoint.llama, checkpoint.tokenizer)
    assert load_checkpoint(tmp_path / "o").tokenizer.folder == tmp_path / "o"


def test_the_name_of_a_relative_folder(base, monkeypatch):
    monkeypatch.chdir(base)
    assert load_checkpoint(".").llama.origins[0].source == "base"


class TestSha256:
    def test_of_hugging_face_folders(self, tmp_path, tiny, write, base):
        digest = load_checkpoint(base).sha256
        assert len(digest) == 64 and digest == checkpoint_sha256(base)
        (base / "README.md").write_text("not a part of the model")
        assert checkpoint_sha256(base) == digest
        assert checkpoint_sha256(write(tmp_path / "copy", *tiny())) == digest
        assert checkpoint_sha256(write(tmp_path / "seed", *tiny(seed=1))) != digest
        assert checkpoint_sha256(write(tmp_path / "eps", *tiny(rms_norm_eps=1e-4))) != digest
        sharded = write(tmp_path / "sharded", *tiny(), shards=2)
        before = checkpoint_sha256(sharded)
        other = write(tmp_path / "sharded eps", *tiny(rms_norm_eps=1e-4), shards=2)
        assert checkpoint_sha256(other) != before
        index = other / "model.safetensors.index.json"
        before_index = checkpoint_sha256(other)
        index.write_text(index.read_text() + " ")
        assert checkpoint_sha256(other) != before_index
        file = sharded / "model-00002-of-00002.safetensors"
        data = bytearray(file.read_bytes())
        data[-1] ^= 1
        file.write_bytes(data)
        assert checkpoint_sha256(sharded) != before

    def test_of_orbax_folders(self, tmp_path, base):
        llama = load(base)
        save(tmp_path / "o", llama)
        digest = checkpoint_sha256(tmp_path / "o")
        assert digest == checkpoint_sha256(tmp_path / "o")
        save(tmp_path / "o", jax.tree.map(lambda x: x + 1, llama))
        assert checkpoint_sha256(tmp_path / "o") != digest


class TestErrors:
    def test_missing_with_the_nearest_name(self, base):
        with pytest.raises(InputError, match=f"no such checkpoint: .*bsae; did you mean {base}"):
            load(base.parent / "bsae")

    def test_missing_with_nothing_like_it(self, tmp_path, base):
        with pytest.raises(InputError, match="no such checkpoint: .*/qqqqq$"):
            load(tmp_path / "qqqqq")
        with pytest.raises(InputError, match="nor the folder .*/no"):
            load(tmp_path / "no" / "model")

    def test_a_file(self, base):
        with pytest.raises(InputError, match="model.safetensors is a file; give the folder"):
            load(base / "model.safetensors")

    def test_something_else(self, tmp_path):
        (tmp_path / "x").write_text("")
        with pytest.raises(InputError, match="holds no model: expected config.json"):
            load(tmp_path)

    def test_an_adapter(self, tmp_path):
        (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
        with pytest.raises(InputError, match="base_model_name_or_path"):
            load(tmp_path)

    @pytest.mark.parametrize("whole", ["model.safetensors", "model.safetensors.index.json"])
    def test_an_adapter_beside_a_whole_model(self, tmp_path, tiny, write, whole):
        folder = write(tmp_path / "both", *tiny(), shards=1 + ("index" in whole))
        (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
        (folder / "adapter_model.safetensors").write_bytes(b"")
        message = rf"both holds .*\(adapter_config.json\) and .*\({whole}\).*: move the files of"
        for read in (load, checkpoint_sha256):
            with pytest.raises(InputError, match=message):
                read(folder)

    def test_an_adapter_beside_an_orbax_checkpoint(self, tmp_path, base):
        save(tmp_path / "o", load(base))
        (tmp_path / "o" / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA"}))
        with pytest.raises(InputError, match=r"\(jprune.json\), and only one"):
            load(tmp_path / "o")

    def test_an_orbax_folder_of_somebody_else(self, tmp_path):
        import orbax.checkpoint as ocp

        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(tmp_path / "o", {"x": np.ones(3)})
        with pytest.raises(InputError, match="no jprune.json, it was not written by jprune"):
            load(tmp_path / "o")

    def test_half_written(self, tmp_path, base):
        save(tmp_path / "o", load(base))
        (tmp_path / "o" / "jprune.json").unlink()
        with pytest.raises(InputError, match="no jprune.json, it is half-written"):
            load(tmp_path / "o")


class TestOnTheHost:
    @pytest.fixture(params=["huggingface", "orbax", "stack"])
    def path(self, request, tmp_path, base):
        if request.param == "huggingface":
            return base
        llama = load(base)
        save(tmp_path / "o", llama if request.param == "orbax" else stack(llama))
        return tmp_path / "o"

    @pytest.mark.parametrize("dtype", [None, "bfloat16"])
    def test_the_same_numbers_and_none_on_a_device(self, path, dtype):
        expected = jax.tree.map(np.asarray, load(path, dtype))
        count = len(jax.live_arrays())
        llama = load(path, dtype, shardings="host")
        assert len(jax.live_arrays()) == count
        assert {type(leaf) for leaf in jax.tree.leaves(llama)} == {np.ndarray}
        assert equal(llama, expected) and llama.dtype == expected.dtype
        assert bytes_per_device(llama) == 0

    def test_an_empty_array(self, tmp_path, base):
        llama = load(base)
        mlp = llama.blocks[0].mlp
        gate = mlp.gate.replace(kernel=mlp.gate.kernel[:, :0])
        block = llama.blocks[0].replace(mlp=mlp.replace(gate=gate))
        save(tmp_path / "o", llama.replace(blocks=(block,)))
        found = load(tmp_path / "o", shardings="host").blocks[0].mlp.gate.kernel
        assert type(found) is np.ndarray and found.shape == gate.kernel.shape

    def test_parameters_are_the_mapped_files(self, tmp_path, tiny, write):
        folder = write(tmp_path / "m", *tiny(vocab_size=20000, hidden_size=64))
        tracemalloc.start()
        llama = load(folder, shardings="host")
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < llama.embed.nbytes / 4 and not llama.lm_head.kernel.flags.owndata

    def test_saved_from_there(self, path, tmp_path):
        save(tmp_path / "again", load(path, shardings="host"))
        export_huggingface(tmp_path / "h", load(path, shardings="host"))
        assert equal(load(tmp_path / "again"), load(path))
        assert equal(load(tmp_path / "h").embed, load(path).embed)

    def test_another_word(self, base):
        with pytest.raises(InputError, match="unknown value of shardings 'hots'; did you mean"):
            load(base, shardings="hots")


def test_a_workdir_is_no_model_but_holds_one(tmp_path):
    for name in ("run.json", "config.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(InputError, match=r"is the workdir of a run; its model is .*/model"):
        load(tmp_path)
