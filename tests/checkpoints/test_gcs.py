"""Checkpoints on an object store."""

import jax
import numpy as np
import pytest

from jprune.checkpoints import export_huggingface, load, load_checkpoint, load_tokenizer, save
from jprune.core.errors import InputError
from jprune.core.files import as_path, sha256_file
from tests.cli.conftest import model  # noqa: F401  (fixture)
from tests.tiny import tiny


def assert_equal(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_orbax_comes_back_exactly(gcs):
    llama = tiny(3)
    save("gs://bucket/O", llama)
    assert_equal(load("gs://bucket/O"), llama)
    arrays = [name for name in gcs.objects if name.startswith("O/arrays/")]
    assert not any(tmp in name for name in arrays for tmp in ("tmp", "rename"))
    save("gs://bucket/O", tiny(2))  # replaces it, whole
    assert load("gs://bucket/O").num_layers == 2


def test_shards_come_back_exactly(gcs, tmp_path):
    llama = tiny(3)
    export_huggingface("gs://bucket/M", llama, max_shard_bytes=60_000)
    export_huggingface(tmp_path / "M", llama, max_shard_bytes=60_000)
    files = sorted(file.name for file in (tmp_path / "M").glob("*.safetensors"))
    assert len(files) > 1
    for name in files:
        assert sha256_file(f"gs://bucket/M/{name}") == sha256_file(tmp_path / "M" / name)
    assert_equal(load("gs://bucket/M"), load(tmp_path / "M"))


def test_damage_is_named(gcs):
    save("gs://bucket/O", tiny(2))
    name = next(name for name in gcs.objects if "/d/" in name)
    gcs.put(name, gcs.objects[name][:-1])
    with pytest.raises(InputError, match="gs://bucket/O is damaged: arrays/"):
        load("gs://bucket/O")
    export_huggingface("gs://bucket/M", tiny(2))
    gcs.put("M/model.safetensors", gcs.objects["M/model.safetensors"][:-1])
    with pytest.raises(InputError, match="model.safetensors is truncated"):
        load("gs://bucket/M")


def test_tokenizers_of_both_libraries(gcs, model, tmp_path):  # noqa: F811
    address = gcs.put_folder("tiny", model)
    ours, local = load_tokenizer(address), load_tokenizer(model)
    text = "the cat sleeps under the old tree"
    assert ours.encode(text) == local.encode(text)
    assert ours.hf(text)["input_ids"] == local.hf(text)["input_ids"]
    export_huggingface("gs://bucket/M", tiny(2, vocab_size=300), ours.hf)  # of transformers
    assert load_tokenizer("gs://bucket/M").encode(text) == local.encode(text)
    copied = load_checkpoint(address).tokenizer
    save("gs://bucket/O", tiny(2, vocab_size=300), copied)
    assert gcs.objects["O/tokenizer.json"] == (model / "tokenizer.json").read_bytes()


def test_a_bucket_that_goes_away_is_no_damage(gcs):
    save("gs://bucket/O", tiny(2))
    gcs.refused["bucket"] = 403
    with pytest.raises(InputError, match="gs://bucket refuses this"):
        load(as_path("gs://bucket/O"))
