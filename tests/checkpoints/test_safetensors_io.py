import json

import numpy as np
import pytest
import safetensors.numpy

from jprune.checkpoints.safetensors_io import (
    PlannedTensor,
    read_header,
    read_headers,
    read_tensor,
    split_shards,
    write_checkpoint,
)
from jprune.core.errors import InputError


def planned(name, values):
    return PlannedTensor(name, values.shape, values.dtype, lambda: values)


def raw(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "bfloat16"])
def test_reads_what_the_reference_writes(tmp_path, dtype, bf16):
    values = np.arange(15).reshape(3, 5).astype(bf16 if dtype == "bfloat16" else dtype) / 7
    empty = np.zeros((0, 4), np.float32)
    safetensors.numpy.save_file({"x": values, "e": empty}, tmp_path / "a.safetensors")
    stored = read_header(tmp_path / "a.safetensors")
    found = read_tensor(stored["x"])
    assert found.dtype == values.dtype and found.tobytes() == values.tobytes()
    assert read_tensor(stored["e"]).shape == (0, 4)


def test_reading_never_changes_the_file(tmp_path):
    safetensors.numpy.save_file({"x": np.ones(3, np.float32)}, tmp_path / "a.safetensors")
    found = read_tensor(read_header(tmp_path / "a.safetensors")["x"])
    with pytest.raises(ValueError, match="read-only"):
        found[0] = 2


def test_the_reference_reads_what_is_written(tmp_path, bf16, same, read):
    rng = np.random.default_rng(0)
    tensors = {
        "a": rng.normal(size=(3, 4)).astype(np.float32),
        "b": rng.normal(size=(5,)).astype(bf16),
        "c": rng.normal(size=(2, 2)).astype(np.float16),
    }
    files = write_checkpoint(tmp_path, [planned(n, v) for n, v in tensors.items()])
    assert files == ["model.safetensors"]
    same(read(tmp_path), tensors)
    with safetensors.safe_open(tmp_path / "model.safetensors", "numpy") as file:
        assert file.metadata() == {"format": "pt"}


def test_shards_and_their_index(tmp_path, same, read):
    tensors = {f"t{i}": np.full((10,), i, np.float32) for i in range(5)}
    files = write_checkpoint(tmp_path, [planned(n, v) for n, v in tensors.items()], 80)
    assert files == [f"model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    assert not (tmp_path / "model.safetensors").exists()
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 200}
    assert index["weight_map"] == {f"t{i}": files[i // 2] for i in range(5)}
    same(read(tmp_path), tensors)
    assert set(read_headers(tmp_path)) == set(tensors)


def test_a_tensor_larger_than_a_shard_stands_alone():
    sizes = [1, 50, 1, 1]
    tensors = [planned(str(i), np.zeros(n, np.float32)) for i, n in enumerate(sizes)]
    groups = split_shards(tensors, 100)
    assert [[t.name for t in group] for group in groups] == [["0"], ["1"], ["2", "3"]]
    with pytest.raises(InputError, match="shard size must be positive"):
        split_shards(tensors, 0)


def test_tensors_are_read_one_at_a_time(tmp_path):
    sizes = []

    def read(i):
        # What was read before is in the file by now: buffered at most, never kept.
        sizes.append(i)
        return np.full(4, i, np.float32)

    plan = [PlannedTensor(str(i), (4,), np.dtype("float32"), lambda i=i: read(i)) for i in range(3)]
    split_shards(plan, 100)
    assert sizes == []
    write_checkpoint(tmp_path, plan)
    assert sizes == [0, 1, 2]


DEFECTS = {
    "empty": (lambda p: p.write_bytes(b""), "a.safetensors is truncated: 0 bytes"),
    "only a length": (
        lambda p: p.write_bytes((50).to_bytes(8, "little")),
        "is truncated: its header ends at byte 58, the file has 8 bytes",
    ),
    "not safetensors": (
        lambda p: p.write_bytes(b"PK\x03\x04 some other kind of file"),
        "not a safetensors file: implausible header length",
    ),
    "header is no JSON": (lambda p: raw(p, b'{"x": '), "is corrupt: its header is not valid JSON"),
    "header is no object": (lambda p: raw(p, [1]), "its header is not a JSON object"),
    "undecodable": (lambda p: raw(p, b"\xff\xfe{}"), "its header is not valid JSON"),
    "no offsets": (
        lambda p: raw(p, {"x": {"dtype": "F32", "shape": [1]}}),
        "its header is malformed at tensor x",
    ),
    "negative shape": (
        lambda p: raw(p, {"x": entry([-1], 0, 4)}, b"0000"),
        "its header is malformed at tensor x",
    ),
    "size against shape": (
        lambda p: raw(p, {"x": entry([2], 0, 4)}, b"0000"),
        r"tensor x of shape \[2\] and dtype F32 has 4 bytes",
    ),
    "beyond the end": (
        lambda p: raw(p, {"x": entry([1], 0, 4), "y": entry([2], 4, 12)}, b"0000"),
        "is truncated: tensor y ends at byte",
    ),
    "overlap": (
        lambda p: raw(p, {"x": entry([2], 0, 8), "y": entry([2], 4, 12)}, b"0" * 12),
        "tensor y starts at byte",
    ),
    "gap": (
        lambda p: raw(p, {"x": entry([1], 0, 4), "y": entry([1], 8, 12)}, b"0" * 12),
        "tensor y starts at byte",
    ),
    "trailing": (
        lambda p: raw(p, {"x": entry([1], 0, 4)}, b"0" * 7),
        "3 bytes after its last tensor",
    ),
    "unknown dtype": (
        lambda p: raw(p, {"x": entry([1], 0, 4, "Q4")}, b"0" * 4),
        "tensor x in .* has unknown dtype 'Q4'",
    ),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_every_defect_of_a_file_is_one_clear_line(tmp_path, defect):
    damage, message = DEFECTS[defect]
    damage(tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=message) as caught:
        read_header(tmp_path / "a.safetensors")
    assert "a.safetensors" in str(caught.value) and "\n" not in str(caught.value)


def test_every_truncation_is_noticed(tmp_path):
    safetensors.numpy.save_file(
        {"x": np.ones((2, 3), np.float32), "y": np.ones(2, np.float16)}, tmp_path / "a.safetensors"
    )
    data = (tmp_path / "a.safetensors").read_bytes()
    for length in range(len(data)):
        (tmp_path / "a.safetensors").write_bytes(data[:length])
        with pytest.raises(InputError, match="truncated"):
            read_header(tmp_path / "a.safetensors")


def test_a_dtype_that_cannot_hold_parameters(tmp_path):
    safetensors.numpy.save_file({"x": np.ones(3, np.int8)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="tensor x in .*a.safetensors has dtype I8; supported"):
        read_tensor(read_header(tmp_path / "a.safetensors")["x"])


def index(folder, weight_map):
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_a_missing_shard(tmp_path):
    index(tmp_path, {"x": "model-00001-of-00002.safetensors"})
    message = "missing shard .*model-00001-of-00002.safetensors: .* says it holds x"
    with pytest.raises(InputError, match=message):
        read_headers(tmp_path)


def test_a_tensor_missing_in_its_shard(tmp_path):
    safetensors.numpy.save_file({"x": np.ones(3, np.float32)}, tmp_path / "s.safetensors")
    index(tmp_path, {"x": "s.safetensors", "y": "s.safetensors"})
    with pytest.raises(InputError, match="tensor y is missing in .*s.safetensors"):
        read_headers(tmp_path)


def test_the_last_shard_is_checked_before_the_first_is_read(tmp_path):
    safetensors.numpy.save_file({"x": np.ones(3, np.float32)}, tmp_path / "s.safetensors")
    (tmp_path / "t.safetensors").write_bytes(b"123")
    index(tmp_path, {"x": "s.safetensors", "y": "t.safetensors"})
    with pytest.raises(InputError, match="t.safetensors is truncated"):
        read_headers(tmp_path)


@pytest.mark.parametrize("content", ["{}", "[]", '{"weight_map": {}}', "{"])
def test_a_corrupt_index(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(InputError, match="index.json is (corrupt|not valid JSON)"):
        read_headers(tmp_path)


def test_an_index_cannot_point_outside_its_folder(tmp_path):
    safetensors.numpy.save_file({"x": np.ones(3, np.float32)}, tmp_path / "s.safetensors")
    (tmp_path / "model").mkdir()
    index(tmp_path / "model", {"x": "../s.safetensors"})
    with pytest.raises(InputError, match="tensor x lies in '../s.safetensors'"):
        read_headers(tmp_path / "model")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ([], "has no weights: expected model.safetensors"),
        (["pytorch_model.bin"], "only PyTorch weights; convert them to safetensors"),
        (["model-00001-of-00002.safetensors"], "neither model.safetensors nor"),
    ],
)
def test_folders_without_usable_weights(tmp_path, files, message):
    for file in files:
        (tmp_path / file).write_bytes(b"")
    with pytest.raises(InputError, match=message):
        read_headers(tmp_path)
