"""Files and folders that are either complete or absent, on local disks and object stores.

A local file is written beside its destination, flushed to disk and renamed over it; a local folder
likewise. An object store has no rename of folders, but a single object appears whole or not at all:
there a folder is complete when its manifest, written last, exists.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import shutil
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath

from jprune.core import aside
from jprune.core.errors import InputError
from jprune.core.processes import is_writer, on_writer

MANIFEST = "jprune_manifest.json"

# There as long as a folder on an object store is being written: it has no temporary name there.
UNFINISHED = "jprune_unfinished.json"

# Names that only jprune gives to files; recipe.json is told by its content.
_OWN_FILES = frozenset({"jprune.json", MANIFEST, UNFINISHED})
_RECIPE = "recipe.json"
# A folder with this is a whole run, whose recipe.json must not make it pass for a model.
_RUN = "run.json"

PathLike = str | os.PathLike[str]


def as_path(path: PathLike) -> epath.Path:
    """`path` as a path object with the methods of `pathlib.Path`; `~` and `gs://` work."""
    return epath.Path(path).expanduser()


def is_remote(path: PathLike) -> bool:
    """Whether `path` is on an object store."""
    return "://" in os.fspath(path)


def write_bytes(path: PathLike, data: bytes) -> None:
    """Writes a file so that at every moment `path` holds the old or the new content, whole.

    Parent folders are made. Of several processes only the first writes. Raises InputError if the
    file cannot be written.
    """
    if not is_writer():
        return
    path = as_path(path)
    with _input_errors(f"cannot write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        if is_remote(path):
            path.write_bytes(data)
            return
        unfinished = aside.name_for(path, "tmp")
        try:
            with open(unfinished, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(unfinished, path)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)


def write_text(path: PathLike, text: str) -> None:
    """`write_bytes` of the UTF-8 encoding of `text`."""
    write_bytes(path, text.encode())


def write_json(path: PathLike, value: Any) -> None:
    """`write_bytes` of `value` as indented JSON; see `jsonable` for what is converted."""
    write_text(path, json.dumps(jsonable(value), indent=2, ensure_ascii=False) + "\n")


def read_json(path: PathLike) -> Any:
    """The content of a JSON file. Raises InputError if it is missing or not JSON."""
    path = as_path(path)
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        raise InputError(f"no such file: {path}") from None
    except ValueError as error:  # includes undecodable bytes
        raise InputError(f"{path} is not valid JSON: {error}") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None


def jsonable(value: Any) -> Any:
    """`value` in JSON's own types: arrays become lists, NaN and infinities null, paths strings."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value) if isinstance(value, set | frozenset) else value
        return [jsonable(item) for item in items]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: jsonable(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if hasattr(value, "tolist"):  # numpy and JAX scalars and arrays
        return jsonable(value.tolist())
    raise TypeError(f"no JSON form for {type(value).__name__}")


@contextlib.contextmanager
def new_dir(path: PathLike, overwrite: bool = True) -> Iterator[epath.Path]:
    """A context that gives a temporary folder, which becomes `path` when the block succeeds.

    If the block raises, the temporary folder is removed and `path` stays as it was. An existing
    `path` is moved out of the way only once its replacement is complete. On an object store the
    files are written in place and the manifest marks completion. Several processes get the same
    folder, each to write what it alone has; it becomes `path` once all of them are done.

    Raises:
        InputError: see `check_replaceable`.
    """
    path = as_path(path)
    on_writer(lambda: check_replaceable(path, overwrite))
    if is_remote(path):
        with _remote_dir(path) as folder:
            yield folder
        return
    unfinished = as_path(on_writer(lambda: os.fspath(_make_aside(path))))
    try:
        yield unfinished
        on_writer(lambda: None)  # all are done
        on_writer(lambda: _swap_in(unfinished, path))
    except BaseException:
        if is_writer():
            shutil.rmtree(unfinished, ignore_errors=True)
        raise


def _make_aside(path: epath.Path) -> epath.Path:
    """A new temporary folder beside a local path."""
    with _input_errors(f"cannot write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        aside.clear_beside(path)
        unfinished = aside.name_for(path, "tmp")
        unfinished.mkdir()
    return unfinished


def check_replaceable(path: PathLike, overwrite: bool = True) -> None:
    """Checks that `new_dir` may make `path`: it is not there, is empty, or was made by jprune.

    A folder counts as made by jprune if it holds a file that only jprune writes: a manifest, or a
    recipe.json with a recipe in it. A config.json says nothing: every downloaded model has one.

    Raises:
        InputError: it exists and `overwrite` is false, is a file, is a run, or is a folder that
            jprune did not write.
    """
    path = as_path(path)
    with _input_errors(f"cannot write {path}"):
        if not path.exists():
            return
        if not path.is_dir():
            raise InputError(f"{path} is a file; give the name of a folder")
        names = {child.name for child in path.iterdir()}
    if not names:
        return
    if not overwrite:
        raise InputError(f"{path} exists; remove it or give another name")
    if _RUN in names:
        raise InputError(f"{path} exists and holds a run of jprune; give another folder")
    if names.isdisjoint(_OWN_FILES) and not (_RECIPE in names and _is_recipe(path / _RECIPE)):
        raise InputError(
            f"{path} exists and holds files that jprune did not write; give another folder"
        )


def remove_leftovers(folder: PathLike) -> None:
    """Clears `folder` and all below it of what killed processes left, whichever they were.

    Half-written files and folders are removed. A folder that was moved out of the way and whose
    replacement never came is put back. Nobody else may be writing in `folder`. Object stores have
    no temporary names: there nothing is done.
    """
    if not is_remote(folder):
        aside.clear_below(as_path(folder))


def is_complete(path: PathLike) -> bool:
    """Whether a folder made by `new_dir` is there and was finished."""
    path = as_path(path)
    return (path / MANIFEST).exists() if is_remote(path) else path.is_dir()


def sha256_file(path: PathLike) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    path = as_path(path)
    with _input_errors(f"cannot read {path}"), path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """SHA-256 of the canonical JSON of `value`: keys sorted, no spaces, UTF-8."""
    text = json.dumps(jsonable(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def sha256_array(array: np.ndarray | np.generic) -> str:
    """SHA-256 of an array's dtype, shape and values in row-major order."""
    array = np.asarray(array)
    digest = hashlib.sha256(f"{array.dtype.name}{list(array.shape)}".encode())
    digest.update(np.ascontiguousarray(array.reshape(-1)).view(np.uint8).data)
    return digest.hexdigest()


@contextlib.contextmanager
def _input_errors(what: str) -> Iterator[None]:
    """Turns the operating system's refusals into one line for the user."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{what}: {error.strerror or error}") from error


def _is_recipe(file: epath.Path) -> bool:
    try:
        recipe = read_json(file)
    except InputError:
        return False
    return isinstance(recipe, dict) and {"version", "sources", "steps"} <= recipe.keys()


def _swap_in(folder: epath.Path, path: epath.Path) -> None:
    """Renames `folder` to `path`; what was there is removed after that, or put back."""
    old = aside.name_for(path, "old")
    try:
        if path.exists():
            os.rename(path, old)
        os.rename(folder, path)
    except BaseException:
        # Only where the new folder did not get there: an interruption may come after that.
        if old.exists() and not path.exists():
            os.rename(old, path)
        shutil.rmtree(old, ignore_errors=True)
        raise
    _sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def _remote_dir(path: epath.Path) -> Iterator[epath.Path]:
    path.mkdir(parents=True, exist_ok=True)
    # What is left by a killed process must be known as jprune's, or it could never be replaced.
    write_json(path / UNFINISHED, {"time": time.time()})
    # The manifest goes first: from here on nobody takes the folder for complete.
    (path / MANIFEST).unlink(missing_ok=True)
    for child in list(path.iterdir()):
        if child.is_dir():
            child.rmtree()
        elif child.name != UNFINISHED:
            child.unlink()
    yield path
    files = sorted(str(file.relative_to(path)) for file in _files_below(path))
    files.remove(UNFINISHED)
    write_json(path / MANIFEST, {"files": files, "time": time.time()})
    (path / UNFINISHED).unlink()


def _files_below(folder: epath.Path) -> Iterator[epath.Path]:
    for child in folder.iterdir():
        if child.is_dir():
            yield from _files_below(child)
        else:
            yield child


def _sync_folder(path: epath.Path) -> None:
    """Makes a rename durable; file systems that cannot sync folders are left alone."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
