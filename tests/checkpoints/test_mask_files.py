"""Masks on disk."""

import jax.numpy as jnp
import numpy as np
import pytest

from jprune.checkpoints.mask_files import (
    copy_arrays,
    fetch,
    find_arrays,
    load_masks,
    save_masks,
    store,
    stored,
)
from jprune.core import InputError
from jprune.llama.masks import pack, unpack

RNG = np.random.default_rng(0)
MASK = RNG.random((13, 5)) < 0.6
MASKS = {"layers.0.mlp.up_proj.kernel": pack(MASK)}


def test_saving_and_loading(tmp_path):
    file = tmp_path / "masks.safetensors"
    save_masks(file, MASKS)
    (name,) = found = load_masks(file)
    assert name == "layers.0.mlp.up_proj.kernel" and found[name].rows == 13
    np.testing.assert_array_equal(unpack(found[name]), MASK)
    # Thirteen rows take two bytes a column.
    assert file.stat().st_size < 10 + 300


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_kernels_keep_their_dtype(tmp_path, dtype):
    kernel = np.asarray(jnp.asarray(RNG.normal(size=(13, 5)), dtype))
    digest = store(tmp_path, MASKS, {"layers.0.mlp.up_proj.kernel": kernel})
    masks, kernels = fetch(tmp_path, digest)
    assert masks.keys() == kernels.keys() == MASKS.keys()
    found = kernels["layers.0.mlp.up_proj.kernel"]
    assert found.dtype == kernel.dtype
    np.testing.assert_array_equal(found, kernel)


def test_the_same_content_has_the_same_name(tmp_path):
    assert store(tmp_path, MASKS) == store(tmp_path, dict(MASKS))
    assert store(tmp_path, {"v": pack(MASK)}) != store(tmp_path, MASKS)
    assert len(list(tmp_path.iterdir())) == 2


def test_what_is_missing_or_damaged(tmp_path):
    digest = store(tmp_path, MASKS)
    with pytest.raises(InputError, match="the recipe's arrays 0000.* are not in .*; put 0000"):
        fetch(tmp_path, "0" * 64)
    file = stored(tmp_path, digest)
    whole = bytearray(file.read_bytes())
    whole[-1] ^= 1
    file.write_bytes(whole)
    with pytest.raises(InputError, match="is damaged: its SHA-256 is not its name"):
        fetch(tmp_path, digest)


@pytest.mark.parametrize("content", [b"", b"12345678", b"\x02" + b"\0" * 7 + b"{}", b"x" * 999])
def test_other_files(tmp_path, content):
    (tmp_path / "masks").write_bytes(content)
    with pytest.raises(InputError, match="is no file of masks, or is damaged"):
        load_masks(tmp_path / "masks")
    with pytest.raises(InputError, match="no such file"):
        load_masks(tmp_path / "none")


def test_arrays_are_found_from_a_model_inside_a_run(tmp_path):
    digest = store(tmp_path / "W" / "arrays", MASKS)
    for inside in ("W", "W/model", "W/checkpoints/pruned"):
        (tmp_path / inside).mkdir(parents=True, exist_ok=True)
        assert find_arrays(tmp_path / inside, [digest]) == tmp_path / "W" / "arrays"
    assert find_arrays(tmp_path / "W" / "model", ["0" * 64]) == tmp_path / "W" / "model" / "arrays"


def test_copied_arrays(tmp_path):
    digest = store(tmp_path / "A", MASKS)
    for _ in range(2):  # what is there is left
        copy_arrays(tmp_path / "A", tmp_path / "B", [digest])
    masks, _ = fetch(tmp_path / "B", digest)
    assert masks.keys() == MASKS.keys()
    (tmp_path / "A" / f"{digest}.safetensors").unlink()
    fetch(tmp_path / "B", digest)
    with pytest.raises(InputError, match="are not in .*A; put"):
        copy_arrays(tmp_path / "A", tmp_path / "C", [digest])
