"""Files and folders that are either complete or absent, on local disks and object stores.

A local file is written beside its destination, flushed to disk and renamed over it; a local folder
likewise. An object store has no rename of folders, but a single object appears whole or not at all:
there a folder is complete when its manifest, written last, exists (see `jprune.core.remote`).
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator
from typing import IO, Any

import numpy as np
from etils import epath

from jprune.core import aside
from jprune.core.errors import InputError
from jprune.core.paths import PathLike, as_path, input_errors, is_remote
from jprune.core.processes import is_writer, on_writer
from jprune.core.remote import MANIFEST, UNFINISHED, remote_dir

# Names that only jprune gives to files; recipe.json is told by its content.
ADAPTER_RECORD, TRAINING_SET = "jprune_adapter.json", "jprune_training_set.json"
_OWN_FILES = frozenset({"jprune.json", ADAPTER_RECORD, TRAINING_SET, MANIFEST, UNFINISHED})
_RECIPE = "recipe.json"
# A folder with this is a whole run, whose recipe.json must not make it pass for a model.
RUN = "run.json"


def write_bytes(path: PathLike, data: bytes) -> None:
    """Writes a file so that at every moment `path` holds the old or the new content, whole.

    Parent folders are made. Of several processes only the first writes. Raises InputError if the
    file cannot be written.
    """
    if not is_writer():
        return
    path = as_path(path)
    with input_errors(f"cannot write {path}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        if is_remote(path):
            from jprune.core import gcs

            gcs.write(os.fspath(path), data)
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


def create_bytes(path: PathLike, data: bytes) -> bool:
    """Writes a file unless it is there already; whether it did.

    Of several callers at once exactly one succeeds: the file system or the object store decides.
    """
    path = as_path(path)
    with input_errors(f"cannot write {path}"):
        if is_remote(path):
            from jprune.core import gcs

            return gcs.create(os.fspath(path), data)
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open(path, "xb") as file:
                file.write(data)
        except FileExistsError:
            return False
        return True


@contextlib.contextmanager
def open_new(path: PathLike) -> Iterator[IO[bytes]]:
    """A context that gives a stream into a file of a folder from `new_dir`.

    What was written is on disk when the block ends. On an object store the file appears then, and
    not at all if the block raises.
    """
    path = as_path(path)
    if is_remote(path):
        from jprune.core import gcs

        with gcs.writing(os.fspath(path)) as stream:
            yield stream
        return
    with open(path, "wb") as stream:
        yield stream
        stream.flush()
        os.fsync(stream.fileno())


def write_text(path: PathLike, text: str) -> None:
    """`write_bytes` of the UTF-8 encoding of `text`."""
    write_bytes(path, text.encode())


def write_json(path: PathLike, value: Any) -> None:
    """`write_bytes` of `value` as indented JSON; see `jsonable` for what is converted."""
    write_text(path, json.dumps(jsonable(value), indent=2, ensure_ascii=False) + "\n")


def read_bytes(path: PathLike) -> bytes:
    """The content of a file; never a mixture of two, also if it is replaced meanwhile."""
    path = as_path(path)
    if is_remote(path):
        from jprune.core import gcs

        return gcs.read(os.fspath(path))
    return path.read_bytes()


def read_json(path: PathLike) -> Any:
    """The content of a JSON file. Raises InputError if it is missing or not JSON."""
    path = as_path(path)
    try:
        return json.loads(read_bytes(path))
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
    `path` is moved out of the way only once its replacement is complete. Several processes get the
    same folder, each to write what it alone has; it becomes `path` once all of them are done.

    On an object store the files are written in place, an existing `path` is cleared first, and the
    manifest marks completion: if the block raises, an unfinished folder stays, marked as such.

    Raises:
        InputError: see `check_replaceable`.
    """
    path = as_path(path)
    on_writer(lambda: check_replaceable(path, overwrite))
    if is_remote(path):
        with remote_dir(path) as folder:
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
    with input_errors(f"cannot write {path}"):
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
    with input_errors(f"cannot write {path}"):
        if not path.exists():
            return
        if not path.is_dir():
            raise InputError(f"{path} is a file; give the name of a folder")
        names = {child.name for child in path.iterdir()}
    if not names:
        return
    if not overwrite:
        raise InputError(f"{path} exists; remove it or give another name")
    if RUN in names:
        raise InputError(f"{path} exists and holds a run of jprune; give another folder")
    if names.isdisjoint(_OWN_FILES) and not (_RECIPE in names and _is_recipe(path / _RECIPE)):
        raise InputError(
            f"{path} exists and holds files that jprune did not write; give another folder"
        )


def remove_leftovers(folder: PathLike) -> None:
    """Clears `folder` and all below it of what killed processes left, whichever they were.

    Half-written files and folders are removed. A folder that was moved out of the way and whose
    replacement never came is put back. Nobody else may be writing in `folder`. Object stores have
    no temporary names, and never show an upload that was cut off: there nothing is done.
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
    with input_errors(f"cannot read {path}"), path.open("rb") as file:
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


def _sync_folder(path: epath.Path) -> None:
    """Makes a rename durable; file systems that cannot sync folders are left alone."""
    with contextlib.suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
