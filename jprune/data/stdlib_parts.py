"""Three kinds of text in the standard library that differ as much as domains do.

`stdlib_prose` is what is written in English: every docstring, and the language reference that
`help()` shows. `stdlib_code` is what is left of the sources without docstrings, comments and long
tables. `stdlib_tables` is those tables: code pages, names of characters, aliases.
"""

import ast
import io
import re
import tokenize
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from jprune.core.errors import unknown
from jprune.data.stdlib import (
    EXCLUDED,
    SPLITS,
    library_folder,
    read_source,
    split_of,
    stdlib_files,
    stdlib_split,
)

PROSE, CODE, TABLES = "stdlib_prose", "stdlib_code", "stdlib_tables"
REFERENCE = "pydoc_data/topics.py"
ENCODINGS = "encodings"
TABLE_LINES = 32  # a literal of so many lines is a table
BLANK_LINES = 2  # at most so many in a row stay in code

_STRING = re.compile(r"\s*[rRbBuU]{0,2}['\"]")
_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def part_files(part: str, split: str = "validation", folder: Path | None = None) -> list[Path]:
    """The files that hold the text of one part and split, in the order of their names.

    Files are dealt to the splits by their names, as those of `stdlib` are, so that what is held out
    of one is held out of all; the topics of the language reference are dealt out one by one.

    Args:
      part: a name of `PARTS`.
      split: 'train' or 'validation' (about 5%).
      folder: the library to read; by default that of the running interpreter.
    """
    if part not in PARTS:
        raise unknown("part of the standard library", part, PARTS)
    if split not in SPLITS:
        raise unknown("split", split, SPLITS)
    if part == TABLES:
        files = stdlib_files(folder, EXCLUDED - {ENCODINGS})
        return [path for name, path in files.items() if split_of(name) == split]
    reference = (folder or library_folder()) / REFERENCE
    own = [reference] if part == PROSE and reference.exists() else []
    return stdlib_split(split, folder) + own


def read_part(part: str, path: str | Path, split: str) -> Iterator[str]:
    """The documents of a part in one of its files: one or none; of the reference, each topic."""
    for source in read_source(path):
        if part == PROSE and Path(path).as_posix().endswith(REFERENCE):
            for topic, text in sorted(topics(source).items()):
                if split_of(f"{REFERENCE}:{topic}") == split and text.strip():
                    yield text
        elif text := PARTS[part](source):
            yield text


def docstrings(source: str) -> str:
    """The docstrings of a module in their order, without their indentation."""
    found = {
        node.body[0].lineno: ast.get_docstring(node)
        for node in ast.walk(_parsed(source))
        if isinstance(node, _Documented) and ast.get_docstring(node)
    }
    return _joined(found[line] or "" for line in sorted(found))


def tables(source: str) -> str:
    """The statements of a module that hold a literal of `TABLE_LINES` lines or more."""
    lines = source.split("\n")
    found = _tables(_parsed(source), lines)
    return _joined("\n".join(lines[node.lineno - 1 : node.end_lineno]) for node in found)


def plain_code(source: str) -> str:
    """A module without docstrings, comments and tables; empty bodies become `pass`."""
    tree, lines = _parsed(source), source.split("\n")
    if not tree.body:
        return ""
    dropped = {
        row for node in _tables(tree, lines) for row in range(node.lineno - 1, node.end_lineno or 0)
    }
    kept: set[int] = set()  # rows in strings, whose blank lines mean something
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        (row, column), last = token.start, token.end[0]
        if token.type == tokenize.COMMENT:
            lines[row - 1] = lines[row - 1][:column].rstrip()
            if not lines[row - 1]:
                dropped.add(row - 1)
        elif last > row:
            kept.update(range(row - 1, last))
    for node in ast.walk(tree):
        if isinstance(node, _Documented) and ast.get_docstring(node) is not None:
            dropped |= _without_docstring(node, lines)
    result: list[str] = []
    for row, line in enumerate(lines):
        blank = not line.strip() and row not in kept
        if row in dropped or (blank and not any(map(str.strip, result[-BLANK_LINES:]))):
            continue
        result.append("" if blank else line)
    return "\n".join(result).rstrip() + "\n" if any(map(str.strip, result)) else ""


def topics(source: str) -> dict[str, str]:
    """The topics of the language reference, by their names; none if there is no such table."""
    for node in _parsed(source).body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
            found = ast.literal_eval(node.value)
            return {name: text for name, text in found.items() if isinstance(text, str)}
    return {}


PARTS: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {PROSE: docstrings, CODE: plain_code, TABLES: tables}
)


def _parsed(source: str) -> ast.Module:
    """The tree of a module; an empty one if this Python does not read it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sequences like "\d", which are not ours
        try:
            return ast.parse(source)
        except (SyntaxError, ValueError):
            return ast.Module([], [])


def _tables(tree: ast.Module, lines: list[str]) -> list[ast.stmt]:
    return [
        node
        for node in tree.body
        if isinstance(node, ast.Assign | ast.AnnAssign | ast.Expr)
        and any(_is_table(child, lines) for child in ast.walk(node))
    ]


def _is_table(node: ast.AST, lines: list[str]) -> bool:
    """Whether a node is a literal of many lines, or many strings side by side."""
    if isinstance(node, ast.Dict | ast.List | ast.Tuple | ast.Set):
        return (node.end_lineno or 0) - node.lineno + 1 >= TABLE_LINES
    if not (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)):
        return False
    rows = lines[node.lineno - 1 : node.end_lineno]
    return sum(_STRING.match(row) is not None for row in rows) >= TABLE_LINES


def _without_docstring(node: _Documented, lines: list[str]) -> set[int]:
    """Cuts the docstring of a node out of `lines`; gives the rows that are to go."""
    text = node.body[0]
    first, last = text.lineno - 1, (text.end_lineno or 0) - 1
    # Columns of trees are in bytes.
    head = lines[first].encode()[: text.col_offset].decode()
    tail = lines[last].encode()[text.end_col_offset :].decode()
    alone = not head.strip() and not tail.strip()
    if alone and (len(node.body) > 1 or isinstance(node, ast.Module)):
        return set(range(first, last + 1))
    lines[first] = f"{head}pass{tail}"
    return set(range(first + 1, last + 1))


def _joined(texts: Iterator[str]) -> str:
    text = "\n\n".join(text for text in texts if text.strip())
    return f"{text}\n" if text else ""
