"""Folders on object stores, which have neither folders nor renames: whole once a manifest is there.

Every file is written under its final name. `jprune_unfinished.json` comes first and the manifest
last, so that a folder that somebody was killed in is known for what it is.
"""

import json
import os
import pathlib
import tempfile
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from etils import epath

from jprune.core.errors import InputError
from jprune.core.paths import PathLike, as_path, input_errors, is_remote
from jprune.core.processes import is_writer, on_writer

MANIFEST = "jprune_manifest.json"

# There as long as a folder on an object store is being written: it has no temporary name there.
UNFINISHED = "jprune_unfinished.json"


@contextmanager
def remote_dir(path: epath.Path) -> Iterator[epath.Path]:
    """A context that empties a folder, lets it be filled, and marks it complete at the end.

    If the block raises or the process dies, the folder stays marked as unfinished: nobody takes it
    for complete, and the next call replaces it. Of two that write the same folder at once the later
    one may complete it.

    Raises:
      InputError: another process has begun to write the folder meanwhile, or the store refuses.
    """
    writer = on_writer(lambda: _clear(path))
    yield path
    on_writer(lambda: None)  # all have written what they have
    on_writer(lambda: _complete(path, writer))


def check_finished(folder: PathLike) -> None:
    """Raises InputError for a folder that somebody began to write and did not finish."""
    folder = as_path(folder)
    if (folder / UNFINISHED).exists() and not (folder / MANIFEST).exists():
        raise InputError(
            f"{folder} is half-written: its writer was stopped or is still at work; repeat the "
            "command that writes it"
        )


@contextmanager
def local_files(folder: PathLike, files: Iterable[epath.Path]) -> Iterator[str]:
    """A context that gives a local folder with `files` of `folder`, for code that needs one.

    A folder that is local already is given itself. Copies go when the block ends.
    """
    folder = as_path(folder)
    if not is_remote(folder):
        yield str(folder)
        return
    with tempfile.TemporaryDirectory(prefix="jprune-") as temporary:
        for file in files:
            copy = as_path(temporary) / file.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(file.read_bytes())
        yield temporary


@contextmanager
def local_output(folder: PathLike) -> Iterator[str]:
    """A context that gives a local folder, what is in it at the end going into `folder`.

    A folder that is local already is given itself.
    """
    folder = as_path(folder)
    if not is_remote(folder):
        yield str(folder)
        return
    from jprune.core import gcs

    with tempfile.TemporaryDirectory(prefix="jprune-") as temporary:
        yield temporary
        local = as_path(temporary)
        for file in files_below(local) if is_writer() else ():
            with input_errors(f"cannot write {folder}"):
                gcs.write(os.fspath(folder / file.relative_to(local)), file.read_bytes())


def versions(folder: PathLike) -> dict[str, tuple[int, int]]:
    """Every file in a folder and in those below it: its size, and a number for what is in it.

    The number is that of the object's generation on a store, elsewhere the time of the last change
    in nanoseconds. Names are relative, in order; empty if there is no such folder.
    """
    folder = as_path(folder)
    if is_remote(folder):
        from jprune.core import gcs

        return gcs.versions(os.fspath(folder))
    files = sorted(file for file in pathlib.Path(folder).rglob("*") if file.is_file())
    stats = {str(file.relative_to(folder)): file.stat() for file in files}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


def files_below(folder: PathLike) -> list[epath.Path]:
    """Every file in a folder and in those below it, in order."""
    return [as_path(folder) / name for name in versions(folder)]


def _clear(path: epath.Path) -> str:
    """Empties a folder but for the mark that it is unfinished; gives what the mark says."""
    writer = uuid.uuid4().hex
    with input_errors(f"cannot write {path}"):
        path.mkdir(parents=True, exist_ok=True)
        # What a killed process leaves must be known as jprune's, or it could never be replaced.
        _write(path / UNFINISHED, {"time": time.time(), "writer": writer})
        # The manifest goes first: from here on nobody takes the folder for complete.
        (path / MANIFEST).unlink(missing_ok=True)
        for child in list(path.iterdir()):
            if child.is_dir():
                child.rmtree()
            elif child.name != UNFINISHED:
                child.unlink()
    return writer


def _complete(path: epath.Path, writer: str) -> None:
    with input_errors(f"cannot write {path}"):
        mark = path / UNFINISHED
        if not mark.exists() or json.loads(mark.read_bytes())["writer"] != writer:
            raise InputError(f"another process writes {path} too; repeat the command alone")
        files = sorted(str(file.relative_to(path)) for file in files_below(path))
        files.remove(UNFINISHED)
        _write(path / MANIFEST, {"files": files, "time": time.time()})
        mark.unlink()


def _write(file: epath.Path, value: dict) -> None:
    from jprune.core import gcs

    gcs.write(os.fspath(file), json.dumps(value, indent=2).encode() + b"\n")
