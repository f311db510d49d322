r"""Tables and numbers as text: aligned plain text, Markdown, CSV, LaTeX.

A table is a list of column names and a list of rows. A cell is a string, an integer, a float
or None (nothing measured). Every renderer escapes what its format gives a meaning to, so names
from a user's files go in as they are:

>>> print(render(("model", "PPL"), [("base", ppl(65.1738)), ("a|b", ppl(118.47))], "md"))
| model | PPL |
| :--- | ---: |
| base | 65.17 |
| a\|b | 118.5 |
"""

import csv
import io
import math
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from jprune.core.errors import unknown

Number = int | float | None
Cell = str | Number
MISSING = "–"
_NUMERIC = re.compile(r"[+\-−]?(\d|inf|nan)")


@dataclass(frozen=True)
class Table:
    """Columns and rows; `marked` are the rows of removed units."""

    columns: tuple[str, ...]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    marked: frozenset[int] = frozenset()


# Numbers


def significant(x: Number, digits: int = 4) -> str:
    """`x` with `digits` significant digits, trailing zeros kept; powers of ten from 1e4 up."""
    if x is None:
        return MISSING
    x = float(x)
    if not math.isfinite(x):
        return str(x)
    if x == 0:
        return "0"
    mantissa, exponent = f"{x:.{digits - 1}e}".split("e")
    power = int(exponent)
    if power >= max(digits, 4) or power < -4:
        return f"{mantissa}e{power}"
    return f"{x:.{max(digits - 1 - power, 0)}f}"


def ppl(x: Number) -> str:
    """A perplexity: four significant digits (65.17, 118.5, 1.235e4)."""
    return significant(x, 4)


def signed(x: Number, digits: int = 4) -> str:
    """A difference with its sign and `digits` decimals (+0.0123)."""
    if x is None:
        return MISSING
    return f"{float(x):+.{digits}f}" if math.isfinite(x) else str(float(x))


def plus_minus(x: Number, error: Number, digits: int = 4, sign: bool = False) -> str:
    """`x ± error`, or `x` alone where no error is known."""
    if x is None:
        return MISSING
    head = signed(x, digits) if sign else f"{float(x):.{digits}f}"
    return head if error is None else f"{head} ± {float(error):.{digits}f}"


def ratio(after: Number, before: Number) -> str:
    """after / before as a factor (1.16×)."""
    if after is None or not before:
        return MISSING
    return f"{significant(after / before, 3)}×"


def change(after: Number, before: Number) -> str:
    """The relative change from `before` to `after` in percent (-17.3%)."""
    if after is None or not before:
        return MISSING
    if after == before:
        return "0%"
    return f"{100 * (after / before - 1):+.1f}%"


def _scaled(x: int | float, units: Sequence[str], gap: str) -> str:
    for i, unit in enumerate(units):
        # 999.95 would print as 1e+03: it belongs to the next unit.
        if abs(x) < 999.5 or i == len(units) - 1:
            return f"{significant(x, 3) if i else f'{x:.0f}'}{gap if i or gap else ''}{unit}"
        x /= 1000
    raise AssertionError("unreachable: the last unit always returns")


def percent(share: Number, decimals: int = 2) -> str:
    """A share in percent with so many decimals (69.98%)."""
    return MISSING if share is None else f"{100 * share:.{decimals}f}%"


def rate(share: Number) -> str:
    """A share that was asked for in percent, without further digits (70%, 62.5%)."""
    return MISSING if share is None else f"{100 * share:.6g}%"


def count(n: Number) -> str:
    """A number of parameters or tokens, three significant digits (16.2M, 6.74B)."""
    return MISSING if n is None else _scaled(n, ("", "K", "M", "B", "T"), "")


def size(num_bytes: Number) -> str:
    """A size in bytes, decimal units (32.4 MB)."""
    return MISSING if num_bytes is None else _scaled(num_bytes, ("B", "kB", "MB", "GB", "TB"), " ")


def duration(seconds: Number) -> str:
    """A duration (0.42 s, 3 min 20 s, 1 h 02 min)."""
    if seconds is None:
        return MISSING
    if seconds < 59.95:
        return f"{seconds:.2f} s" if seconds < 9.995 else f"{seconds:.1f} s"
    total = round(seconds)
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


# Renderers


def cell_text(cell: Cell) -> str:
    """A cell on one line, without control characters; floats with four significant digits."""
    if cell is None:
        return MISSING
    text = significant(cell) if isinstance(cell, float) else str(cell)
    return "".join(c if c.isprintable() else " " for c in text)


def _width(text: str) -> int:
    wide = sum(unicodedata.east_asian_width(c) in "WF" for c in text)
    return len(text) + wide - sum(unicodedata.combining(c) != 0 for c in text)


def _pad(text: str, width: int, right: bool) -> str:
    space = " " * (width - _width(text))
    return space + text if right else text + space


def right_aligned(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> list[bool]:
    """For each column, whether all its cells that hold something begin like a number."""
    result = []
    for i in range(len(columns)):
        texts = [cell_text(row[i]) for row in rows if row[i] is not None]
        texts = [t for t in texts if t and t != MISSING]
        result.append(bool(texts) and all(_NUMERIC.match(t) for t in texts))
    return result


def text(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Aligned plain text: numbers to the right, a rule under the header."""
    right = right_aligned(columns, rows)
    cells = [[cell_text(c) for c in line] for line in (columns, *rows)]
    widths = [max(_width(line[i]) for line in cells) for i in range(len(columns))]
    lines = [
        "  ".join(_pad(c, w, r) for c, w, r in zip(line, widths, right, strict=True)).rstrip()
        for line in cells
    ]
    return "\n".join([lines[0], "  ".join("-" * w for w in widths), *lines[1:]])


def escape_markdown(value: str) -> str:
    """`value` with the characters that Markdown (or HTML inside it) reads escaped."""
    value = value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return re.sub(r"([\\|*_`\[\]~])", r"\\\1", value)


def markdown(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A GitHub Markdown table."""
    rule = ["---:" if r else ":---" for r in right_aligned(columns, rows)]
    lines = [[escape_markdown(cell_text(c)) for c in line] for line in (columns, *rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [lines[0], rule, *lines[1:]])


def comma_separated(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """CSV as in RFC 4180 (lines end in a newline); nothing measured is an empty field."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([["" if c in (None, MISSING) else c for c in row] for row in rows])
    return out.getvalue().rstrip("\n")


_LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "–": "--",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "→": r"$\to$",
    "Δ": r"$\Delta$",
} | {c: "\\" + c for c in "&%$#_{}"}


def escape_latex(value: str) -> str:
    """`value` with every character that LaTeX reads as a command escaped."""
    return "".join(_LATEX.get(c, c) for c in value)


def latex(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """A LaTeX `tabular` with the rules of the booktabs package."""
    spec = "".join("r" if r else "l" for r in right_aligned(columns, rows))
    lines = [
        " & ".join(escape_latex(cell_text(c)) for c in line) + r" \\" for line in (columns, *rows)
    ]
    return "\n".join(
        [rf"\begin{{tabular}}{{{spec}}}", r"\toprule", lines[0], r"\midrule", *lines[1:]]
        + [r"\bottomrule", r"\end{tabular}"]
    )


FORMATS = {"text": text, "md": markdown, "csv": comma_separated, "tex": latex}


def render(columns: Sequence[str], rows: Iterable[Sequence[Cell]], format: str = "text") -> str:
    """The table in one of FORMATS: text, md, csv or tex.

    Raises:
      InputError: for an unknown format.
    """
    if format not in FORMATS:
        raise unknown("table format", format, FORMATS)
    return FORMATS[format](list(columns), [list(row) for row in rows])


def with_caption(table: Table, format: str = "text") -> str:
    """The table in one of FORMATS with its caption below it; CSV has none.

    Raises:
      InputError: for an unknown format.
    """
    body = render(table.columns, table.rows, format)
    if format == "csv" or not table.caption:
        return body
    if format == "tex":
        return "\n".join([body, *(f"% {line}" for line in table.caption.splitlines())])
    if format == "md":
        return f"{body}\n\n{escape_markdown(table.caption)}"
    return f"{body}\n{table.caption}"
