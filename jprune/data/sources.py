"""Data source strings (`wikitext2`, `c4.jsonl.gz::text`, `windows.npz:ids`) and what they hold."""

import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

import numpy as np
from jaxtyping import Int

from jprune.core import InputError, as_path, nearest, sha256_file
from jprune.data.instructions import is_instruction
from jprune.data.known import KNOWN, Purpose, hub_documents, hub_rows, local_copy
from jprune.data.readers import EXTENSIONS, extension, read_documents, read_rows
from jprune.data.stdlib import STDLIB, read_source, stdlib_split
from jprune.data.stdlib_parts import PARTS, part_files, read_part

# The names of sources: those that are loaded, and those that are in every Python.
NAMES = (*KNOWN, STDLIB, *PARTS)

T = TypeVar("T")

_PART = re.compile(r"(?P<source>.+)@(?P<part>\d+)/(?P<of>\d+)", re.DOTALL)
_TOKENS = re.compile(r"(?P<path>.+\.npz)(?::(?P<key>.*))?", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Source:
    """A data source, found but not yet read.

    Attributes:
      text: the string that named it.
      purpose: what it is for; known names have a split for each.
      files: the local files, in order; empty for what is to be downloaded.
      split: the split where there is one, e.g. "test".
      field: the field that holds the text, where the user chose it.
      key: the array of token windows in an `.npz` file, or None for text.
      hub_name: the known name to download, or None.
      part: (i, n): of its documents only those drawn for the i-th of n parts, from 1 on.
    """

    text: str
    purpose: Purpose = "evaluation"
    files: tuple[str, ...] = ()
    split: str | None = None
    field: str | None = None
    key: str | None = None
    hub_name: str | None = None
    part: tuple[int, int] | None = None

    @property
    def is_tokens(self) -> bool:
        """Whether this is an array of token windows, to be used exactly as it is."""
        return self.key is not None

    def fingerprint(self) -> dict:
        """What identifies the content: SHA-256 of every local file, or the name on the hub."""
        identity: dict = {"field": self.field, "key": self.key, "split": self.split}
        if self.part:
            identity["part"] = list(self.part)
        if self.hub_name:
            part = KNOWN[self.hub_name].parts[self.purpose]
            return identity | {"hub": KNOWN[self.hub_name].repository, "files": part.files}
        return identity | {"sha256": [sha256_file(path) for path in self.files]}


def find_source(
    source: str, purpose: Purpose = "evaluation", data_dir: str | None = None
) -> Source:
    """The source that a string names. Nothing is read or downloaded.

    Args:
      source: a known name (`wikitext2`), a text file (`a.jsonl`), either with `::field`, or
        `file.npz:key` for token windows [windows, length]. With `@1/2` behind it, only the
        documents (or windows) drawn for the first of two parts, with `@2/2` all others.
      purpose: "evaluation" or "calibration": which split of a known name is meant.
      data_dir: a folder that serves known names from `data_dir/name.*` or `data_dir/name/`.

    Raises:
      InputError: the file does not exist (with the nearest name), its kind is unknown, or there is
        no such part.
    """
    if part := _PART.fullmatch(source):
        index, of = int(part["part"]), int(part["of"])
        if not 1 <= index <= of:
            raise InputError(f"{source}: parts are @1/{max(of, 1)} to @{max(of, 1)}/{max(of, 1)}")
        found = find_source(part["source"], purpose, data_dir)
        return dataclasses.replace(found, text=source, part=(index, of))
    if tokens := _TOKENS.fullmatch(source):
        path = _existing(tokens["path"])
        return Source(source, purpose, (path,), key=tokens["key"] or "")
    name, _, field = source.partition("::")
    if name in KNOWN:
        copy = local_copy(name, purpose, data_dir) if data_dir else None
        if copy is not None:
            return Source(source, purpose, copy[0], copy[1], field or None)
        split = KNOWN[name].parts[purpose].split
        return Source(source, purpose, (), split, field or None, hub_name=name)
    if source == STDLIB or source in PARTS:
        split = "validation" if purpose == "evaluation" else "train"
        files = stdlib_split(split) if source == STDLIB else part_files(source, split)
        return Source(source, purpose, tuple(map(str, files)), split)
    path = _existing(name)
    if extension(path) is None:
        raise InputError(
            f"{path} is no text file that jprune reads; "
            f"a source is a name ({', '.join(NAMES)}), a file ending in one of "
            f"{', '.join(EXTENSIONS)}, or file.npz:key"
        )
    return Source(source, purpose, (path,), field=field or None)


def documents(
    source: str | Source, purpose: Purpose = "evaluation", data_dir: str | None = None
) -> Iterator[str]:
    """The documents of a text source, read one at a time. Arguments and errors: `find_source`."""
    found = source if isinstance(source, Source) else find_source(source, purpose, data_dir)
    if found.is_tokens:
        raise InputError(f"{found.text} holds token ids where text is needed")
    return _of_part(_documents(found), found)


def instruction_rows(
    source: str | Source, purpose: Purpose = "evaluation", data_dir: str | None = None
) -> Iterator[dict[str, str]]:
    """The rows of a source of instructions: `instruction`, `input` (perhaps empty), `output`.

    `documents` gives each as one text instead. Rows are read one at a time. Arguments as for
    `find_source`.

    Raises:
      InputError: as `find_source`; or a row has no instruction or no output.
    """
    found = source if isinstance(source, Source) else find_source(source, purpose, data_dir)
    if found.is_tokens or found.field is not None or not (found.hub_name or found.files):
        raise InputError(
            f"{found.text} cannot hold instructions; give a file with rows of the fields "
            "instruction, input and output"
        )
    yield from _of_part(_instructions(found), found)


def _instructions(source: Source) -> Iterator[dict[str, str]]:
    where = source.text.partition("@")[0]
    numbered = hub_rows(source.hub_name, source.purpose) if source.hub_name else iter(())
    for position, row in itertools.chain(numbered, *map(read_rows, source.files)):
        fields = row if isinstance(row, Mapping) else {}
        texts = {name: fields.get(name) for name in ("instruction", "input", "output")}
        texts["input"] = texts["input"] or ""
        if not is_instruction(fields) or not all(isinstance(x, str) for x in texts.values()):
            has = ", ".join(map(str, fields)) or "none"
            raise InputError(
                f"{where}: {position} is no instruction: it takes the texts instruction and "
                f"output, perhaps input (fields: {has})"
            )
        yield {name: str(text) for name, text in texts.items()}


def _of_part(items: Iterable[T], source: Source) -> Iterator[T]:
    """Those items that are drawn for the part of a source, each by itself; all without parts.

    Raises:
      InputError: a part without any.
    """
    if source.part is None:
        yield from items
        return
    index, of = source.part
    rng = np.random.default_rng(0)  # the same parts for everybody, whatever the run's seed
    count = 0
    for item in items:
        if rng.integers(of) == index - 1:
            count += 1
            yield item
    if not count:
        raise InputError(
            f"no document of {source.text.rpartition('@')[0]} is in part {index} of {of}; it has "
            "too few to be divided: give search and report data of their own"
        )


def _documents(source: Source) -> Iterator[str]:
    if source.hub_name:
        yield from hub_documents(source.hub_name, source.purpose, source.field)
    name = source.text.partition("@")[0]
    for path in source.files:
        if name in PARTS:
            yield from read_part(name, path, str(source.split))
        elif name == STDLIB:
            yield from read_source(path)
        else:
            yield from read_documents(path, source.field)


def token_windows(source: str | Source) -> Int[np.ndarray, "windows length"]:
    """The token windows of `file.npz:key`, exactly as they are, as int32.

    Raises:
      InputError: no such key (with the nearest), not a table of non-negative integers, or not an
        `.npz` file.
    """
    found = source if isinstance(source, Source) else find_source(source)
    if found.key is None:
        raise InputError(f"{found.text} is text; token windows are given as file.npz:key")
    path = found.files[0]
    try:
        with as_path(path).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            keys = list(arrays)
            if found.key not in keys:
                raise InputError(_no_such_key(path, found.key, keys))
            ids = arrays[found.key]
    except (InputError, MemoryError):
        raise
    except Exception as error:  # zipfile, zlib, pickle and OS errors: all mean the same here
        raise InputError(f"{path}: not a readable .npz file ({error})") from None
    if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer) or ids.size == 0:
        raise InputError(
            f"{found.text} is {ids.dtype} of shape {list(ids.shape)}; "
            "token windows are integers of shape [windows, length]"
        )
    if ids.min() < 0 or ids.max() > np.iinfo(np.int32).max:
        raise InputError(
            f"{found.text} holds {ids.min()} to {ids.max()}; token ids are not negative and "
            "below the model's vocabulary size"
        )
    return np.asarray(list(_of_part(ids.astype(np.int32), found)))


def _no_such_key(path: str, key: str, keys: list[str]) -> str:
    if not key:
        return f"{path}: name an array, e.g. {path}:{keys[0] if keys else 'KEY'} (arrays: {keys})"
    close = nearest(key, keys)
    hint = f"; did you mean {close!r}?" if close else ""
    return f"{path} has no array {key!r}{hint} (arrays: {', '.join(keys)})"


def _existing(name: str) -> str:
    if not name:
        raise InputError(f"the data source is empty; give a name ({', '.join(NAMES)}) or a file")
    path = as_path(name)
    if path.is_file():
        return str(path)
    if path.is_dir():
        files = sorted(child.name for child in path.iterdir() if extension(child.name))
        example = f", e.g. {path / files[0]}" if files else ""
        raise InputError(f"{name} is a folder; name a file in it{example}")
    folder = path.parent
    names = [child.name for child in folder.iterdir()] if folder.is_dir() else []
    if "/" not in name and extension(name) is None and not name.endswith(".npz"):
        close = nearest(name, [*NAMES, *names])
        hint = f"; did you mean {close!r}?" if close else ""
        known = ", ".join(NAMES)
        raise InputError(f"no data source or file {name!r}{hint} (names: {known}; or a file)")
    close = nearest(path.name, names)
    if not folder.is_dir():
        hint = f" (there is no folder {folder})"
    else:
        hint = f"; did you mean '{folder / close}'?" if close else ""
    raise InputError(f"no such file: {name}{hint}")
