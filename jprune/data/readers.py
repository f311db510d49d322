"""Text documents of one local file, read lazily; the kind of file follows from its name."""

import contextlib
import gzip
import itertools
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, BinaryIO, cast

from jprune.core import InputError, as_path, nearest
from jprune.data.instructions import alpaca_document, is_instruction

PLAIN = (".txt", ".raw", ".tokens")
LINES = (".jsonl", ".jsonl.gz", ".json.gz")
EXTENSIONS = (*PLAIN, *LINES, ".json", ".parquet")

# Fields that hold the text of a document, the usual first.
TEXT_FIELDS = (
    "text", "content", "document", "sentence", "article", "passage", "story", "body",
)  # fmt: skip


def extension(path: str) -> str | None:
    """The extension of `path` among EXTENSIONS, or None."""
    found = [end for end in EXTENSIONS if path.lower().endswith(end)]
    return max(found, key=len) if found else None


def read_documents(path: str, field: str | None = None) -> Iterator[str]:
    """The documents of a file, one at a time.

    `.txt`, `.raw` and `.tokens` files are one document, unmodified. `.jsonl`, `.jsonl.gz`, `.json`
    and `.parquet` files have one document per row: the field `field`, or the one that
    `text_of_rows` detects.

    Raises:
      InputError: the file cannot be read or is corrupt (with the line), its extension is unknown,
        or the field is missing (with the fields that there are).
    """
    kind = extension(path)
    if kind is None:
        raise InputError(f"{path}: a text source ends in one of {', '.join(EXTENSIONS)}")
    if kind in PLAIN:
        if field is not None:
            raise InputError(f"{path} is plain text and has no fields; leave out '::{field}'")
        yield _plain(path)
    elif kind == ".parquet":
        yield from _parquet(path, field)
    else:
        rows = _json(path) if kind == ".json" else _json_lines(path, kind.endswith(".gz"))
        yield from text_of_rows(rows, path, field)


def read_rows(path: str) -> Iterator[tuple[str, Any]]:
    """The rows of a file with fields, each with its position for messages.

    Raises:
      InputError: the file cannot be read or is corrupt (with the line), or is of no kind with rows.
    """
    kind = extension(path)
    if kind == ".parquet":
        yield from _parquet_rows(path)
    elif kind == ".json":
        yield from _json(path)
    elif kind in LINES:
        yield from _json_lines(path, kind.endswith(".gz"))
    else:
        ends = ", ".join((*LINES, ".json", ".parquet"))
        raise InputError(f"{path} has no rows with fields; such a file ends in one of {ends}")


def text_of_rows(
    rows: Iterable[tuple[str, Any]], where: str, field: str | None = None
) -> Iterator[str]:
    """The text of each row.

    Args:
      rows: (position, row) pairs; a row is an object with fields or a bare string.
      where: the source's name, for messages.
      field: the field that holds the text; several as `question+answer`, each on lines of its own
        (not of parquet files). By default the first of TEXT_FIELDS that the first row
        has, else prompt and answer of an instruction (`jprune.data.instructions`), else the only
        field whose value is a string.
    """
    pick: Callable[[Mapping[str, Any]], Any] | None = None
    for position, row in rows:
        if isinstance(row, str) and field is None:
            yield row
            continue
        if not isinstance(row, Mapping):
            raise InputError(f"{where}: {position} is no object with fields, so it has no text")
        if pick is None:
            pick = _picker(row, where, field)
        try:
            text = pick(row)
        except (KeyError, TypeError, AttributeError):
            text = None
        if not isinstance(text, str):
            raise InputError(f"{where}: {position} has no text in {_label(row, field)}")
        yield text


def text_field(fields: Mapping[str, bool], where: str, field: str | None) -> str | None:
    """The field that holds the text, or None for instructions with answers.

    Args:
      fields: for each field whether it holds strings.
      where: the source's name, for messages.
      field: the user's choice, if any.
    """
    names = list(fields)
    if field is not None:
        if field in fields:
            return field
        close = nearest(field, names)
        hint = f"; did you mean {close!r}?" if close else ""
        raise InputError(f"{where} has no field {field!r}{hint} (fields: {', '.join(names)})")
    for name in TEXT_FIELDS:
        if fields.get(name):
            return name
    if is_instruction(names):
        return None
    strings = [name for name, is_text in fields.items() if is_text]
    if len(strings) == 1:
        return strings[0]
    example = strings[0] if strings else "FIELD"
    raise InputError(
        f"cannot tell which field of {where} is the text (fields: {', '.join(names)}); "
        f"name it, e.g. {where}::{example}"
    )


def _picker(row, where, field) -> Callable[[Mapping[str, Any]], Any]:
    fields = {name: isinstance(value, str) for name, value in row.items()}
    if field is not None and "+" in field and field not in fields:
        names = [text_field(fields, where, name) or name for name in field.split("+")]
        return lambda row: "\n".join(row[name] for name in names)
    chosen = text_field(fields, where, field)
    return alpaca_document if chosen is None else lambda row: row[chosen]


def _label(row: Mapping, field: str | None) -> str:
    names = ", ".join(map(str, row))
    return f"field {field!r} (fields: {names})" if field else f"the expected field (has: {names})"


@contextlib.contextmanager
def _open(path: str) -> Iterator[BinaryIO]:
    """The file opened for reading, with an InputError for what the system refuses."""
    try:
        file = as_path(path).open("rb")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    with file:
        yield cast(BinaryIO, file)


def _decode(data: bytes, path: str, first_line: int = 1) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = first_line + data.count(b"\n", 0, error.start)
        raise InputError(f"{path}, line {line}: not UTF-8 text ({error.reason})") from None


def _plain(path: str) -> str:
    # Bytes, not text mode: a document is unmodified, its line ends included.
    with _open(path) as file:
        return _decode(file.read(), path)


def _json_lines(path: str, compressed: bool) -> Iterator[tuple[str, Any]]:
    number = 0
    with _open(path) as file:
        lines = gzip.GzipFile(fileobj=file) if compressed else file
        try:
            for number, line in enumerate(cast(Iterable[bytes], lines), 1):
                if line.strip():
                    yield f"line {number}", _parse(line, path, number)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise InputError(
                f"{path}, line {number + 1}: truncated or corrupt gzip file ({error})"
            ) from None


def _parse(data: bytes, path: str, line: int) -> Any:
    text = _decode(data, path, line)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        at = f"line {line + error.lineno - 1}, column {error.colno}"
        raise InputError(f"{path}, {at}: not valid JSON ({error.msg})") from None


def _json(path: str) -> Iterator[tuple[str, Any]]:
    """Rows of a `.json` file: an array, an object that holds one array, or JSON lines."""
    if _has_row_per_line(path):
        yield from _json_lines(path, compressed=False)
        return
    with _open(path) as file:
        value = _parse(file.read(), path, 1)
    if isinstance(value, dict):
        arrays = [item for item in value.values() if isinstance(item, list)]
        value = arrays[0] if len(arrays) == 1 else [value]
    if not isinstance(value, list):
        raise InputError(f"{path} holds neither an array of rows nor one row per line")
    yield from ((f"row {number}", row) for number, row in enumerate(value, 1))


def _has_row_per_line(path: str) -> bool:
    with _open(path) as file:
        first_two = list(itertools.islice(filter(bytes.strip, file), 2))
    try:
        return len(first_two) == 2 and isinstance(json.loads(first_two[0]), dict)
    except ValueError:
        return False


def _parquet(path: str, field: str | None) -> Iterator[str]:
    import pyarrow as pa

    def columns(schema: pa.Schema) -> list[str]:
        strings = {
            column.name: pa.types.is_string(column.type) or pa.types.is_large_string(column.type)
            for column in schema
        }
        chosen.append(text_field(strings, path, field))
        instruction = [name for name in ("instruction", "input", "output") if name in strings]
        return instruction if chosen[0] is None else [chosen[0]]

    chosen: list[str | None] = []
    rows = _parquet_rows(path, columns)
    for first in rows:  # only now is the schema known
        yield from text_of_rows(itertools.chain([first], rows), path, chosen[0])


def _parquet_rows(
    path: str, columns: Callable[[Any], list[str]] | None = None
) -> Iterator[tuple[str, Any]]:
    """The rows of a parquet file, of the columns that `columns` names for its schema, or of all."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _open(path) as file:
        try:
            table = pq.ParquetFile(file)
            chosen = None if columns is None else columns(table.schema_arrow)
            done = 0
            for batch in table.iter_batches(batch_size=1024, columns=chosen):
                yield from ((f"row {done + i}", r) for i, r in enumerate(batch.to_pylist(), 1))
                done += batch.num_rows
        except (pa.ArrowException, OSError) as error:
            message = str(error).splitlines()[0]
            raise InputError(f"{os.fspath(path)}: corrupt parquet file ({message})") from None
