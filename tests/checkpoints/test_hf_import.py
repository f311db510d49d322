import tracemalloc

import jax
import numpy as np
import pytest
import safetensors.numpy

from jprune.checkpoints.hf_import import import_huggingface
from jprune.core.errors import InputError
from jprune.llama.model import Llama, Origin
from jprune.llama.names import named_params


def expected(tensors):
    """The parameters of a Llama by name, from Hugging Face tensors by the mapping written out."""
    found = {}
    for name, values in tensors.items():
        if "norm" in name or name.endswith(".bias"):
            found[name.removeprefix("model.")] = values
        elif "embed" in name:
            found["embed_tokens.embedding"] = values
        else:
            found[name.removeprefix("model.").replace(".weight", ".kernel")] = values.T
    return found


def params(llama):
    return {name: np.asarray(values) for name, values in named_params(llama).items()}


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("biases", [{}, {"attention_bias": True}, {"mlp_bias": True}])
def test_every_tensor_lands_in_its_place(tmp_path, tiny, write, same, shards, biases):
    config, tensors = tiny(**biases)
    llama = import_huggingface(write(tmp_path / "m", config, tensors, shards))
    same(params(llama), expected(tensors))
    assert llama.origins == tuple(Origin("m", i) for i in range(3))
    assert (
        llama.config.head_dim == 4
        and llama.config.source == (tmp_path / "m" / "config.json").read_text()
    )


def test_wide_tensors_are_transposed_in_bands(tmp_path, tiny, write, same):
    config, tensors = tiny(intermediate_size=101, vocab_size=77)
    llama = import_huggingface(write(tmp_path, config, tensors))
    same(params(llama), expected(tensors))


def test_mixed_dtypes_become_one(tmp_path, tiny, write, same, bf16, caplog):
    config, tensors = tiny(dtype=bf16)
    kinds = [bf16, np.float32, np.float16, np.float64]
    mixed = {n: t.astype(kinds[i % 4]) for i, (n, t) in enumerate(tensors.items())}
    write(tmp_path, config | {"dtype": "bfloat16"}, mixed, shards=2)
    wide = {n: t.astype(np.float32) for n, t in mixed.items()}
    same(params(import_huggingface(tmp_path)), expected(wide))
    assert caplog.messages == []
    narrow = {n: t.astype(bf16) for n, t in mixed.items()}
    same(params(import_huggingface(tmp_path, "checkpoint", source="m")), expected(narrow))
    assert len(mixed) == 30  # every fourth is bfloat16, the first one of them
    assert caplog.messages == [
        "m mixes dtypes: of its 30 tensors, 8 of float32 and 7 of float16 and 7 of float64 "
        "are cast to bfloat16"
    ]
    caplog.clear()
    half = {n: t.astype(np.float16) for n, t in mixed.items()}
    same(params(import_huggingface(tmp_path, "float16")), expected(half))
    assert caplog.messages == []  # that was asked for


def test_one_dtype_is_loaded_bit_for_bit(tmp_path, tiny, write, same, bf16, caplog):
    config, tensors = tiny(dtype=bf16)
    write(tmp_path, config | {"dtype": "bfloat16"}, tensors)
    same(params(import_huggingface(tmp_path, "checkpoint")), expected(tensors))
    assert caplog.messages == []


def test_without_a_dtype_in_the_config_most_bytes_decide(tmp_path, tiny, write, bf16):
    config, tensors = tiny(dtype=bf16)
    del config["dtype"]
    norms = {n: t.astype(np.float32) for n, t in tensors.items() if "norm" in n}
    write(tmp_path, config, tensors | norms)
    assert import_huggingface(tmp_path, "checkpoint").dtype == bf16


class TestTies:
    def test_by_the_flag(self, tmp_path, tiny, write):
        llama = import_huggingface(write(tmp_path, *tiny(tie_word_embeddings=True)))
        assert llama.lm_head is None and llama.config.tie_word_embeddings

    def test_by_an_absent_head(self, tmp_path, tiny, write, caplog):
        config, tensors = tiny()
        del tensors["lm_head.weight"]
        llama = import_huggingface(write(tmp_path, config, tensors))
        assert llama.lm_head is None and llama.config.tie_word_embeddings
        assert "taking the head as tied" in caplog.text

    def test_a_stored_copy_of_the_embeddings_is_left_out(self, tmp_path, tiny, write):
        config, tensors = tiny(tie_word_embeddings=True)
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
        assert import_huggingface(write(tmp_path, config, tensors)).lm_head is None

    def test_a_head_that_differs_is_not_tied(self, tmp_path, tiny, write, caplog):
        config, tensors = tiny()
        write(tmp_path, config | {"tie_word_embeddings": True}, tensors)
        llama = import_huggingface(tmp_path)
        assert (np.asarray(llama.lm_head.kernel) == tensors["lm_head.weight"].T).all()
        assert not llama.config.tie_word_embeddings
        assert "not tying" in caplog.text

    def test_only_the_head_is_stored(self, tmp_path, tiny, write):
        config, tensors = tiny(tie_word_embeddings=True)
        tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
        llama = import_huggingface(write(tmp_path, config, tensors))
        assert (np.asarray(llama.embed) == tensors["lm_head.weight"]).all()
        assert llama.lm_head is None


def test_buffers_of_old_checkpoints_are_ignored(tmp_path, tiny, write, same):
    config, tensors = tiny()
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    write(tmp_path, config, tensors | {name: np.ones(2, np.float32)})
    same(params(import_huggingface(tmp_path)), expected(tensors))


def drop(name):
    return lambda tensors: tensors.pop(name)


DEFECTS = {
    "missing tensor": (
        drop("model.layers.1.mlp.up_proj.weight"),
        "tensor model.layers.1.mlp.up_proj.weight is missing in",
    ),
    "wrong shape": (
        lambda t: t.update({"model.layers.2.mlp.up_proj.weight": np.ones((24, 15), np.float32)}),
        r"tensor model.layers.2.mlp.up_proj.weight in .*model.safetensors has shape \[24, 15\], "
        r"expected \[24, 16\]",
    ),
    "wrong vocabulary": (
        lambda t: t.update({"model.embed_tokens.weight": np.ones((41, 16), np.float32)}),
        r"tensor model.embed_tokens.weight .* has shape \[41, 16\], expected \[40, 16\]",
    ),
    "unexpected layer": (
        lambda t: t.update({"model.layers.3.mlp.up_proj.weight": np.ones((24, 16), np.float32)}),
        "tensor model.layers.3.mlp.up_proj.weight in .* belongs to layer 3, "
        "but config.json says num_hidden_layers 3",
    ),
    "unexpected bias": (
        lambda t: t.update({"model.layers.0.self_attn.q_proj.bias": np.ones(16, np.float32)}),
        "unexpected tensor model.layers.0.self_attn.q_proj.bias in .*model.safetensors",
    ),
    "unsupported dtype": (
        lambda t: t.update({"model.norm.weight": np.ones(16, np.int32)}),
        "tensor model.norm.weight in .*model.safetensors has dtype I32; supported are F64, F32",
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_every_mismatch_names_file_and_tensor(tmp_path, tiny, write, defect, monkeypatch):
    damage, message = DEFECTS[defect]
    config, tensors = tiny()
    damage(tensors)
    write(tmp_path, config, tensors)
    monkeypatch.setattr("jprune.checkpoints.hf_import.read_tensor", None)  # nothing is read
    with pytest.raises(InputError, match=message):
        import_huggingface(tmp_path)


def test_a_truncated_shard_is_noticed_before_anything_is_read(tmp_path, tiny, write, monkeypatch):
    folder = write(tmp_path, *tiny(), shards=3)
    file = folder / "model-00003-of-00003.safetensors"
    file.write_bytes(file.read_bytes()[:-5])
    monkeypatch.setattr("jprune.checkpoints.hf_import.read_tensor", None)
    with pytest.raises(InputError, match="model-00003-of-00003.safetensors is truncated: tensor"):
        import_huggingface(folder)


def test_no_config(tmp_path):
    safetensors.numpy.save_file({"x": np.ones(3, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="no such file: .*config.json"):
        import_huggingface(tmp_path)


def test_the_model_is_never_in_host_memory_twice(tmp_path, tiny, write):
    config, tensors = tiny(hidden_size=64, intermediate_size=256, num_hidden_layers=20)
    write(tmp_path, config, tensors)
    import_huggingface(tmp_path)  # what is made once is not the model's
    size = sum(t.nbytes for t in tensors.values())
    del tensors
    tracemalloc.start()
    llama = import_huggingface(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert isinstance(llama, Llama)
    assert peak < 1.3 * size


class TestShardings:
    def test_forms(self, tmp_path, tiny, write, same):
        config, tensors = tiny()
        write(tmp_path, config, tensors)
        mesh = jax.make_mesh((1,), ("fsdp",))
        spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
        everywhere = import_huggingface(tmp_path, shardings=spread)
        assert {leaf.sharding for leaf in jax.tree.leaves(everywhere)} == {spread}
        same(params(everywhere), expected(tensors))
        one = import_huggingface(tmp_path, shardings={"layers.1.self_attn.q_proj.kernel": spread})
        places = {n: leaf.sharding for n, leaf in named_params(one).items()}
        assert [n for n, place in places.items() if place == spread] == [
            "layers.1.self_attn.q_proj.kernel"
        ]
        tree = jax.tree.map(lambda leaf: leaf.sharding, one)
        again = import_huggingface(tmp_path, shardings=tree)
        assert {n: leaf.sharding for n, leaf in named_params(again).items()} == places

    def test_no_room_on_the_device(self, tmp_path, tiny, write, monkeypatch):
        config, tensors = tiny()
        write(tmp_path / "m", config, tensors)
        size = sum(t.nbytes for t in tensors.values())
        free = {"bytes": size - 1}
        monkeypatch.setattr("jprune.checkpoints.placement.free_bytes", lambda device: free["bytes"])
        with pytest.raises(InputError, match="no room for m: its parameters take 0.00 GB on cpu:0"):
            import_huggingface(tmp_path / "m")
        free["bytes"] = size
        import_huggingface(tmp_path / "m")
