"""Masks, and kernels that came with them, in files of the safetensors format.

A mask is a tensor of unsigned bytes under the name of its kernel with `.mask` behind it, a kernel
one under its name; the metadata has the number of inputs of every mask. What steps of a recipe name
by SHA-256 lies in a folder under that name: `SHA256.safetensors`.
"""

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jprune.checkpoints.dtypes import SAFETENSORS_DTYPES
from jprune.core.errors import InputError
from jprune.core.files import PathLike, as_path, write_bytes
from jprune.core.processes import is_writer
from jprune.llama.masks import Mask, Masks

_DTYPES = SAFETENSORS_DTYPES | {"U8": np.dtype("uint8")}
_MASK = ".mask"
ARRAYS = "arrays"  # the folder beside a recipe

Kernels = Mapping[str, np.ndarray]


def save_masks(path: PathLike, masks: Masks) -> None:
    """Writes masks, packed, as one file."""
    write_bytes(path, encode(masks))


def load_masks(path: PathLike) -> dict[str, Mask]:
    """The masks that `save_masks` wrote, on the host.

    Raises:
      InputError: no such file, or a damaged one, or one without masks.
    """
    masks, _ = decode(_read(path), path)
    if not masks:
        raise InputError(f"{path} holds no masks")
    return masks


def store(folder: PathLike, masks: Masks, kernels: Kernels | None = None) -> str:
    """Writes masks and kernels under their SHA-256, which is returned."""
    data = encode(masks, kernels)
    digest = hashlib.sha256(data).hexdigest()
    file = stored(folder, digest)
    if is_writer():  # also where a file is, which may be damaged
        write_bytes(file, data)
    return digest


def fetch(folder: PathLike, digest: str) -> tuple[dict[str, Mask], dict[str, np.ndarray]]:
    """The masks and kernels that `store` wrote.

    Raises:
      InputError: they are not in the folder, or are not what they were.
    """
    file = stored(folder, digest)
    if not file.exists():
        raise InputError(_missing(file, folder, digest))
    data = _read(file)
    if hashlib.sha256(data).hexdigest() != digest:
        raise InputError(f"{file} is damaged: its SHA-256 is not its name")
    return decode(data, file)


def find_arrays(beside: PathLike, digests: Sequence[str]) -> Any:
    """The folder with the files of these SHA-256: `arrays` beside a recipe or a model.

    A model that a run wrote is one or two folders below the run's own; these are looked at too.
    Where nothing is found, it is the one where they should be.
    """
    beside = as_path(beside)
    folders = [folder / ARRAYS for folder in (beside, beside.parent, beside.parent.parent)]
    has_all = (folder for folder in folders if all(stored(folder, one).exists() for one in digests))
    return next(has_all, folders[0])


def copy_arrays(source: PathLike, target: PathLike, digests: Sequence[str]) -> None:
    """Copies files from one folder to another; on one local disk they take no room again.

    Raises:
      InputError: one is not there.
    """
    for digest in digests:
        old, new = stored(source, digest), stored(target, digest)
        if new.exists():
            continue
        if not old.exists():
            raise InputError(_missing(old, source, digest))
        new.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(old, new)  # never written in place, so that two names do no harm
        except OSError:
            write_bytes(new, old.read_bytes())


def keep_only(folder: PathLike, digests: Sequence[str]) -> None:
    """Removes the files of a folder that nothing among `digests` names any more."""
    wanted = {stored(folder, digest).name for digest in digests}
    folder = as_path(folder)
    for file in folder.glob("*.safetensors") if folder.is_dir() else ():
        if file.name not in wanted:
            file.unlink(missing_ok=True)


def stored(folder: PathLike, digest: str):
    """Where `store` puts what has this SHA-256."""
    return as_path(folder) / f"{digest}.safetensors"


def encode(masks: Masks, kernels: Kernels | None = None) -> bytes:
    """The content of a file of masks and kernels."""
    from safetensors.numpy import save

    tensors = {f"{name}{_MASK}": np.ascontiguousarray(mask.bits) for name, mask in masks.items()}
    tensors |= {name: np.ascontiguousarray(kernel) for name, kernel in (kernels or {}).items()}
    rows = {name: mask.rows for name, mask in masks.items()}
    return save(tensors, {"rows": json.dumps(rows)})


def decode(data: bytes, where: PathLike) -> tuple[dict[str, Mask], dict[str, np.ndarray]]:
    """The masks and kernels of a file's content.

    Raises:
      InputError: `data` is not what `encode` makes.
    """
    try:
        start = 8 + int.from_bytes(data[:8], "little")
        header = json.loads(data[8:start])
        rows = json.loads(header.pop("__metadata__")["rows"])
        tensors = {name: _tensor(data, start, entry) for name, entry in header.items()}
        masks = {name: Mask(tensors.pop(f"{name}{_MASK}"), count) for name, count in rows.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{where} is no file of masks, or is damaged: {error!r}") from None
    return masks, tensors


def _missing(file: Any, folder: PathLike, digest: str) -> str:
    return (
        f"the recipe's arrays {digest[:12]}... are not in {folder}; put {file.name} there, "
        "from the folder `arrays` beside the recipe of the run that made them"
    )


def _tensor(data: bytes, start: int, entry: Mapping) -> np.ndarray:
    first, last = entry["data_offsets"]
    dtype, shape = _DTYPES[entry["dtype"]], entry["shape"]
    flat = np.frombuffer(data, dtype, (last - first) // dtype.itemsize, start + first)
    return flat.reshape(shape)


def _read(path: PathLike) -> bytes:
    try:
        return as_path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f"no such file: {path}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
