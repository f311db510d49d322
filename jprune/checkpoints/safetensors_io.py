"""The safetensors format: validated headers, tensor-by-tensor reading, streamed writing.

A file is eight bytes (little-endian length of the header), the header as JSON
(`{name: {"dtype", "shape", "data_offsets"}}`, offsets from the end of the header), then the data.
A sharded checkpoint adds an index, `{"weight_map": {name: file}}`. Every defect becomes an
InputError that names the file and the tensor, before any data is read.
"""

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from etils import epath

from jprune.checkpoints.dtypes import SAFETENSORS_DTYPES, safetensors_name
from jprune.core.errors import InputError
from jprune.core.files import PathLike, as_path, is_remote, open_new, read_json, write_json
from jprune.core.processes import is_writer

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
MAX_SHARD_BYTES = 5 * 10**9

# The reference implementation refuses longer headers; a random file usually claims a longer one.
_MAX_HEADER_BYTES = 100_000_000
_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F4": 4}
_BITS |= {"I16": 16, "U16": 16, "I32": 32, "U32": 32, "I64": 64, "U64": 64}
_BITS |= {name: 8 * dtype.itemsize for name, dtype in SAFETENSORS_DTYPES.items()}


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies: bytes `start` to `end` of `file`, row-major, dtype by its name."""

    name: str
    file: epath.Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclasses.dataclass(frozen=True)
class PlannedTensor:
    """A tensor to be written; `read` gives its values only when their turn comes."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def num_bytes(self) -> int:
        """How many bytes of data it takes."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize


def read_header(file: PathLike) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file, by name.

    Raises InputError if the file is missing, truncated, longer than its header says, or if the
    header is corrupt or describes tensors that do not tile the data.
    """
    file = as_path(file)
    try:
        size = file.stat().length
        with file.open("rb") as stream:
            prefix = stream.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8:
                raise InputError(f"{file} is truncated: {size} bytes, too short for a header")
            if length > _MAX_HEADER_BYTES:
                raise InputError(f"{file} is not a safetensors file: implausible header length")
            if 8 + length > size:
                raise InputError(
                    f"{file} is truncated: its header ends at byte {8 + length}, "
                    f"the file has {size} bytes; download or copy it again"
                )
            text = stream.read(length)
    except FileNotFoundError:
        raise InputError(f"no such file: {file}") from None
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror or error}") from None
    try:
        header = json.loads(text)
    except ValueError:
        raise InputError(f"{file} is corrupt: its header is not valid JSON") from None
    if not isinstance(header, dict):
        raise InputError(f"{file} is corrupt: its header is not a JSON object")
    header.pop("__metadata__", None)
    tensors = {name: _parse(file, name, entry, 8 + length) for name, entry in header.items()}
    _check_layout(file, tensors, 8 + length, size)
    return tensors


def read_headers(folder: PathLike) -> dict[str, StoredTensor]:
    """The tensors of a checkpoint folder, single or sharded, by name; all shards are validated.

    Raises InputError as `read_header` does, and for an index that names a missing shard or a
    tensor that its shard does not have.
    """
    folder = as_path(folder)
    if (folder / SINGLE).exists():
        return read_header(folder / SINGLE)
    if not (folder / INDEX).exists():
        raise InputError(_no_weights(folder))
    index = read_json(folder / INDEX)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise InputError(f"{folder / INDEX} is corrupt: it has no weight_map")
    shards = {}
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or os.path.basename(shard) != shard:
            raise InputError(f"{folder / INDEX} is corrupt: tensor {name} lies in {shard!r}")
        if shard in shards:
            continue
        if not (folder / shard).exists():
            raise InputError(f"missing shard {folder / shard}: {INDEX} says it holds {name}")
        shards[shard] = read_header(folder / shard)
    for name, shard in weight_map.items():
        if name not in shards[shard]:
            raise InputError(f"tensor {name} is missing in {folder / shard}, where {INDEX} has it")
    return {name: shards[shard][name] for name, shard in weight_map.items()}


def read_tensor(tensor: StoredTensor) -> np.ndarray:
    """The values of a stored tensor: a read-only view of the mapped file where it is local.

    The file is mapped for this tensor alone, so dropping the array gives its pages back.
    Raises InputError if its dtype cannot hold parameters.
    """
    dtype = parameter_dtype(tensor)
    if math.prod(tensor.shape) == 0:
        return np.zeros(tensor.shape, dtype)
    if is_remote(tensor.file):
        with tensor.file.open("rb") as stream:
            stream.seek(tensor.start)
            data = stream.read(tensor.end - tensor.start)
        return np.frombuffer(data, dtype).reshape(tensor.shape)
    raw = np.memmap(tensor.file, np.uint8, "r", tensor.start, (tensor.end - tensor.start,))
    return raw.view(np.ndarray).view(dtype).reshape(tensor.shape)


def parameter_dtype(tensor: StoredTensor) -> np.dtype:
    """The dtype of a stored tensor. Raises InputError if parameters cannot have it."""
    if tensor.dtype not in SAFETENSORS_DTYPES:
        raise InputError(
            f"tensor {tensor.name} in {tensor.file} has dtype {tensor.dtype}; "
            f"supported are {', '.join(SAFETENSORS_DTYPES)} (quantised weights are not)"
        )
    return SAFETENSORS_DTYPES[tensor.dtype]


def write_checkpoint(
    folder: PathLike,
    tensors: Sequence[PlannedTensor],
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> list[str]:
    """Writes tensors in order, one at a time, in shards of at most `max_shard_bytes` of data.

    One shard is called `model.safetensors`; several are numbered and get an index. A tensor larger
    than the limit has a shard to itself.

    Returns:
      The names of the shards.
    """
    folder = as_path(folder)
    shards = split_shards(tensors, max_shard_bytes)
    if len(shards) == 1:
        files = [SINGLE]
    else:
        count = len(shards)
        files = [f"model-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
    for file, shard in zip(files, shards, strict=True):
        write_file(folder / file, shard)
    if len(shards) > 1:
        total = sum(tensor.num_bytes for tensor in tensors)
        places = {t.name: file for file, shard in zip(files, shards, strict=True) for t in shard}
        write_json(
            folder / INDEX,
            {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))},
        )
    return files


def split_shards(
    tensors: Iterable[PlannedTensor], max_shard_bytes: int
) -> list[list[PlannedTensor]]:
    """Consecutive tensors grouped so that no group of several exceeds `max_shard_bytes`."""
    if max_shard_bytes < 1:
        raise InputError(f"the shard size must be positive, not {max_shard_bytes} bytes")
    shards: list[list[PlannedTensor]] = [[]]
    filled = 0
    for tensor in tensors:
        if shards[-1] and filled + tensor.num_bytes > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.num_bytes
    return shards


def write_file(file: epath.Path, tensors: Sequence[PlannedTensor]) -> None:
    """Writes one safetensors file into a folder of `new_dir`, tensor after tensor."""
    # transformers refuses files whose metadata does not name a framework's layout.
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        end = offset + tensor.num_bytes
        header[tensor.name] = {
            "dtype": safetensors_name(tensor.dtype),
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the data starts at a multiple of eight bytes
    if not is_writer():
        for tensor in tensors:
            tensor.read()  # gathering a tensor takes all processes
        return
    with open_new(file) as stream:
        stream.write(len(text).to_bytes(8, "little"))
        stream.write(text)
        for tensor in tensors:
            values = np.ascontiguousarray(tensor.read())
            if values.shape != tensor.shape or values.dtype != tensor.dtype:
                raise ValueError(f"{tensor.name}: planned {tensor.shape} {tensor.dtype}")
            stream.write(values.reshape(-1).view(np.uint8).data)


def _parse(file: epath.Path, name: str, entry: Any, data_start: int) -> StoredTensor:
    """One entry of a header, checked against itself."""
    try:
        dtype, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
        plain = all(type(n) is int and n >= 0 for n in (*shape, begin, end))
    except (TypeError, KeyError, ValueError):
        plain = False
    if not plain:
        raise InputError(f"{file} is corrupt: its header is malformed at tensor {name}")
    if dtype not in _BITS:
        raise InputError(f"tensor {name} in {file} has unknown dtype {dtype!r}")
    if end - begin != -(-math.prod(shape) * _BITS[dtype] // 8):
        raise InputError(
            f"{file} is corrupt: tensor {name} of shape {list(shape)} and dtype {dtype} "
            f"has {end - begin} bytes"
        )
    return StoredTensor(name, file, dtype, shape, data_start + begin, data_start + end)


def _check_layout(
    file: epath.Path, tensors: dict[str, StoredTensor], start: int, size: int
) -> None:
    """Checks that the tensors tile the data: no gaps, overlaps, missing or trailing bytes."""
    position = start
    for tensor in sorted(tensors.values(), key=lambda t: (t.start, t.end)):
        if tensor.end > size:
            raise InputError(
                f"{file} is truncated: tensor {tensor.name} ends at byte {tensor.end}, "
                f"the file has {size} bytes; download or copy it again"
            )
        if tensor.start != position:
            raise InputError(
                f"{file} is corrupt: tensor {tensor.name} starts at byte {tensor.start}, "
                f"the one before ends at {position}"
            )
        position = tensor.end
    if position != size:
        raise InputError(f"{file} is corrupt: {size - position} bytes after its last tensor")


def _no_weights(folder: epath.Path) -> str:
    names = sorted(child.name for child in folder.iterdir())
    if any(name.endswith(".safetensors") for name in names):
        return f"{folder} has safetensors files but neither {SINGLE} nor {INDEX}"
    if any(name.endswith((".bin", ".pth", ".pt")) for name in names):
        return f"{folder} has only PyTorch weights; convert them to safetensors ({SINGLE})"
    return f"{folder} has no weights: expected {SINGLE} or {INDEX}"
