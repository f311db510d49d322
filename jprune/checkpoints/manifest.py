"""`jprune.json`: everything about an Orbax checkpoint of jprune except its arrays.

It holds config, origins, recipe, the shape and dtype of every array, and a checksum of every file
and of itself, so that a folder can be checked before it is read. It is written last.
"""

import concurrent.futures
import dataclasses
import zlib
from typing import Any

import jax
from etils import epath

from jprune.core.errors import InputError
from jprune.core.files import (
    PathLike,
    as_path,
    is_remote,
    jsonable,
    read_json,
    sha256_json,
)
from jprune.core.remote import check_finished, files_below, versions
from jprune.llama.config import LlamaConfig, Rope
from jprune.llama.kernels import Lora, Masked, is_kernel
from jprune.llama.model import Llama, Run
from jprune.llama.names import leaf_name, named_params

MANIFEST = "jprune.json"
ARRAYS = "arrays"
VERSION = 1

# The recipe.json of a model of which nobody says how it was made. The file is always written: it
# marks the folder as one that jprune made and may replace.
EMPTY_RECIPE = {"version": 1, "sources": [], "steps": []}


def make_manifest(llama: Llama, recipe: Any, folder: epath.Path) -> dict[str, Any]:
    """The manifest of `llama`, whose arrays are in `folder` already."""
    manifest = jsonable(_describe(llama) | {"recipe": recipe, "files": _checksums(folder)})
    return manifest | {"sha256": sha256_json(manifest)}


def read_manifest(path: PathLike) -> dict[str, Any]:
    """The content of a checkpoint's `jprune.json`.

    Raises InputError for a folder without it (half-written or written by something else) for a
    version that this jprune does not know, and for content that was changed.
    """
    folder = as_path(path)
    if not (folder / MANIFEST).exists():
        foreign = not (folder / ARRAYS).exists()
        reason = "it was not written by jprune" if foreign else "it is half-written; save it again"
        raise InputError(f"{folder} is not an Orbax checkpoint of jprune: no {MANIFEST}, {reason}")
    manifest = read_json(folder / MANIFEST)
    version = manifest.get("version") if isinstance(manifest, dict) else None
    if version != VERSION:
        raise InputError(
            f"{folder / MANIFEST} has version {version}; this jprune reads version {VERSION}"
        )
    check_finished(folder)
    if manifest.pop("sha256", None) != sha256_json(manifest):
        raise InputError(f"{folder / MANIFEST} is corrupt: it is not as it was written")
    return manifest


def check_files(folder: epath.Path, written: dict[str, list[int]]) -> None:
    """Raises InputError for a file that is missing or not as it was written.

    A damaged file would otherwise be noticed in the middle of restoring, or not at all. Object
    stores check their own content: there the sizes are enough.
    """
    there = versions(folder)
    for name, (size, _) in written.items():
        if name not in there:
            raise InputError(f"{folder} is damaged: {name} is missing")
        if (found := there[name][0]) != size:
            raise InputError(f"{folder} is damaged: {name} has {found} bytes instead of {size}")
    if is_remote(folder):
        return
    with concurrent.futures.ThreadPoolExecutor() as pool:
        checksums = pool.map(_crc32, [folder / name for name in written])
        for (name, (_, checksum)), found in zip(written.items(), checksums, strict=True):
            if found != checksum:
                raise InputError(f"{folder} is damaged: {name} is not as it was written")


def parse_config(values: dict[str, Any]) -> LlamaConfig:
    """The config from its fields."""
    eos = values["eos_token_id"]
    changed = {
        # Checkpoints from before there were families of which only q, k and v have biases.
        "output_bias": values.get("output_bias", values["attention_bias"]),
        "rope": Rope(**values["rope"]),
        "eos_token_id": tuple(eos) if isinstance(eos, list) else eos,
    }
    return LlamaConfig(**(values | changed))


def _describe(llama: Llama) -> dict[str, Any]:
    """Everything about a model except its arrays' values."""
    return {
        "format": "jprune Orbax checkpoint",
        "version": VERSION,
        "config": dataclasses.asdict(llama.config),
        "blocks": [
            {"stacked": True, "origins": part.origins}
            if isinstance(part, Run)
            else {"stacked": False, "origins": [part.origin]}
            for part in llama.blocks
        ],
        "arrays": {
            name: {"shape": list(array.shape), "dtype": array.dtype.name}
            for name, array in named_params(llama).items()
        },
        "wrappers": _static_fields(llama),
    }


def _static_fields(llama: Llama) -> dict[str, dict[str, float]]:
    """Scale and dropout of every adapter, by the name of its kernel."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(llama, is_leaf=is_kernel)
    found = {leaf_name(path): leaf for path, leaf in leaves}
    inner = {f"{k}.kernel": v.kernel for k, v in found.items() if isinstance(v, Masked)}
    return {
        name: {"scale": kernel.scale, "dropout": kernel.dropout}
        for name, kernel in (found | inner).items()
        if isinstance(kernel, Lora)
    }


def _checksums(folder: epath.Path) -> dict[str, list[int]]:
    """Size and CRC-32 of every file of the arrays, by path in the checkpoint."""
    files = list(files_below(folder / ARRAYS))
    with concurrent.futures.ThreadPoolExecutor() as pool:  # zlib lets go of the interpreter
        checksums = pool.map(_crc32, files)
        return {
            str(file.relative_to(folder)): [file.stat().length, checksum]
            for file, checksum in zip(files, checksums, strict=True)
        }


def _crc32(file: epath.Path) -> int:
    checksum = 0
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 22):
            checksum = zlib.crc32(chunk, checksum)
    return checksum
