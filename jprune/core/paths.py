"""Paths: local ones, and gs:// through etils.epath."""

import contextlib
import functools
import os
import re
from collections.abc import Iterator

from etils import epath

from jprune.core.errors import InputError

PathLike = str | os.PathLike[str]

_STORE = "gs://"


def as_path(path: PathLike) -> epath.Path:
    """`path` as a path object with the methods of `pathlib.Path`; `~` and `gs://` work.

    Raises:
      InputError: an address that is not `gs://`, or what `gs://` needs is not installed.
    """
    if os.fspath(path).startswith("gs:") and not is_remote(path):
        raise InputError(
            f"{os.fspath(path)} is no place; an address on an object store is gs://..."
        )
    if is_remote(path):
        _connect(os.fspath(path).partition("://")[0])
        return epath.Path(path)
    return epath.Path(path).expanduser()


def is_remote(path: PathLike) -> bool:
    """Whether `path` is on an object store."""
    return "://" in os.fspath(path)


def resolved(path: PathLike) -> epath.Path:
    """The one name of a place: from the root, without links and `..`."""
    if not is_remote(path):
        return as_path(os.path.realpath(as_path(path)))
    # The method of epath would take an address for a relative path.
    scheme, _, rest = os.fspath(path).partition("://")
    return as_path(f"{scheme}://{os.path.normpath(rest)}")


def file_stem(name: str) -> str:
    """A name as that of a file: the user's own functions have colons and dots."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name)


@contextlib.contextmanager
def input_errors(what: str) -> Iterator[None]:
    """Turns the operating system's refusals into one line for the user."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{what}: {error.strerror or error}") from error


@functools.cache
def _connect(scheme: str) -> None:
    """Makes `gs://` work from here on; the client is imported only where it is needed."""
    if f"{scheme}://" != _STORE:
        raise InputError(f"{scheme}:// is no place that jprune reads or writes; use {_STORE}")
    try:
        from jprune.core import gcs
    except ImportError as error:
        raise InputError(
            f"{_STORE} needs the package gcsfs ({error}): pip install 'jprune[gcs]'"
        ) from None
    gcs.connect()
