"""Text that every machine with Python has: the sources of its standard library."""

import hashlib
import sysconfig
from collections.abc import Collection, Iterator
from pathlib import Path

from jprune.core.errors import InputError, unknown

STDLIB = "stdlib"  # the name of the data source
SPLITS = ("train", "validation")
VALIDATION_FRACTION = 0.05

# Left out at any depth: other people's packages, test suites, code that is mostly tables
# (character maps, documentation topics), demonstrations, and files about this very installation.
EXCLUDED = frozenset(
    {
        *("site-packages", "dist-packages", "__pycache__", "lib-dynload", "ensurepip"),
        *("test", "tests", "idle_test", "idlelib", "turtledemo", "lib2to3"),
        *("encodings", "pydoc_data"),
    }
)
EXCLUDED_PREFIXES = ("_sysconfigdata", "config-", "_sysconfig_vars")


def library_folder() -> Path:
    """Where the running interpreter has its standard library."""
    return Path(sysconfig.get_paths()["stdlib"])


def stdlib_files(
    folder: Path | None = None, excluded: Collection[str] = EXCLUDED
) -> dict[str, Path]:
    """The source files by their name relative to the standard library's folder, sorted.

    Args:
      folder: the library to read; by default that of the running interpreter.
      excluded: names of files and folders that are left out.

    Raises:
      InputError: the interpreter came without sources.
    """
    folder = folder or library_folder()
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.py")}
    kept = {name: files[name] for name in sorted(files) if not _excluded(name, excluded)}
    if not kept:
        raise InputError(f"no standard library sources in {folder}; give a text file instead")
    return kept


def split_of(name: str) -> str:
    """The split a file belongs to, by a hash of its name: the same on every machine."""
    digest = hashlib.sha256(name.encode()).digest()
    fraction = int.from_bytes(digest[:8], "big") / 2**64
    return "validation" if fraction < VALIDATION_FRACTION else "train"


def stdlib_split(split: str = "validation", folder: Path | None = None) -> list[Path]:
    """The source files of one split, in the order of their names.

    Args:
      split: 'train' or 'validation' (about 5% of the files, held out from the bundled model).
      folder: see `stdlib_files`.
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    return [path for name, path in stdlib_files(folder).items() if split_of(name) == split]


def read_source(path: str | Path) -> Iterator[str]:
    """The text of one source file, or nothing if it is empty or not UTF-8."""
    try:
        text = Path(path).read_bytes().decode("utf-8").replace("\r\n", "\n")
    except UnicodeDecodeError:
        return
    if text.strip():
        yield text


def _excluded(name: str, excluded: Collection[str]) -> bool:
    parts = name.split("/")
    return any(part in excluded or part.startswith(EXCLUDED_PREFIXES) for part in parts)
