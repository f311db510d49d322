"""Elements of a page as HTML text; whatever is shown is escaped here."""

import json
from collections.abc import Sequence
from html import escape
from typing import Any

from jprune.report import tables
from jprune.report.tables import Table

# Of a JSON value: enough for any recipe but one that names every neuron.
LONGEST = 200_000


def section(title: str, *parts: str) -> str:
    """A part of the page under a heading; empty parts are left out."""
    return f"<section>\n<h2>{escape(title)}</h2>\n{''.join(p for p in parts if p)}\n</section>"


def paragraph(text: str, style: str = "") -> str:
    """Text of its own, in a style of the sheet."""
    return f"<p{f' class={chr(34)}{style}{chr(34)}' if style else ''}>{escape(text)}</p>\n"


def details(summary: str, content: str, opened: bool = False) -> str:
    """What a reader opens by its summary."""
    mark = " open" if opened else ""
    return f"<details{mark}><summary>{escape(summary)}</summary>\n{content}</details>\n"


def table_of(table: Table) -> str:
    """A table under its caption; it scrolls where the page is narrower."""
    right = tables.right_aligned(table.columns, table.rows)

    def row(cells: Sequence[tables.Cell], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=right' if r else ''}>{escape(tables.cell_text(c))}</{tag}>"
            for c, r in zip(cells, right, strict=True)
        )

    lines = [
        f"<tr{' class=gone' if i in table.marked else ''}>{row(cells, 'td')}</tr>"
        for i, cells in enumerate(table.rows)
    ]
    caption = paragraph(table.caption, "note") if table.caption else ""
    return (
        f'{caption}<div class="scroll"><table><thead><tr>{row(table.columns, "th")}</tr></thead>'
        f"<tbody>\n{chr(10).join(lines)}\n</tbody></table></div>\n"
    )


def figure(svg: str | None, alt: str, caption: str = "") -> str:
    """A drawing with what it shows in words; nothing without one."""
    if not svg:
        return ""
    caption = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure role="img" aria-label="{escape(alt)}">\n{svg}\n{caption}</figure>\n'


def code(text: str) -> str:
    """Text as it is, of one width."""
    return f"<pre><code>{escape(text)}</code></pre>\n"


def json_section(title: str, value: Any, note: str, file: str) -> str:
    """A JSON value under a heading; a very long one is left to the file that it comes from."""
    if not value:
        return ""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    if len(text) > LONGEST:
        return section(title, paragraph(f"{note} Too long for this page: see {file}.".strip()))
    return section(
        title,
        paragraph(note, "note") if note else "",
        details("Show" if text.count("\n") > 40 else "JSON", code(text), text.count("\n") <= 40),
    )
