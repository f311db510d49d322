"""What rows and columns of a comparison are called, and how their figures are written."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass

from jprune.report import tables
from jprune.report.comparable import Run
from jprune.report.spread import Spread

_PART = re.compile(r"@\d+/\d+$")
_ENDING = re.compile(r"(?<=.)(\.(txt|raw|tokens|jsonl?|parquet|npz))?(\.gz)?$")


def group_names(groups: Sequence[Sequence[Run]]) -> list[str]:
    """The names of the workdirs, or the whole paths where names repeat; `p-{0,1}` for several."""
    runs = [run for group in groups for run in group]
    names = [run.record.name for run in runs]
    unique = len(set(names)) == len(names)
    return [
        _joined([run.record.name if unique else run.label for run in group]) for group in groups
    ]


def _joined(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    prefix = os.path.commonprefix(list(names)).rstrip("0123456789")
    if not prefix:
        return ", ".join(names)
    return f"{prefix}{{{','.join(name.removeprefix(prefix) for name in names)}}}"


def short_names(data: Sequence[str]) -> dict[str, str]:
    """Data sources without their folders, where that leaves them different."""
    parsed = [_Source.of(source) for source in data]
    return _shortest(data, [[f"{one.file}{one.field}{one.part}" for one in parsed]])


def brief_names(data: Sequence[str]) -> dict[str, str]:
    """Data sources as columns and axes are named: gsm8k of d/gsm8k.jsonl::question+answer@2/2.

    What leaves some of them the same stays: the field, then the part, then the folder.
    """
    parsed = [_Source.of(source) for source in data]
    stems = [_ENDING.sub("", one.file) for one in parsed]
    pairs = list(zip(stems, parsed, strict=True))
    forms = [
        stems,
        [stem + one.field for stem, one in pairs],
        [stem + one.field + one.part for stem, one in pairs],
    ]
    return _shortest(data, forms)


@dataclass(frozen=True)
class _Source:
    """The words of a data source: d/gsm8k.jsonl, ::question, @2/2; the file without folders."""

    file: str
    field: str
    part: str

    @classmethod
    def of(cls, source: str) -> "_Source":
        part = _PART.search(source)
        path = source[: part.start()] if part else source
        path, separator, field = path.partition("::")
        return cls(
            path.rstrip("/").rpartition("/")[2], separator + field, part.group() if part else ""
        )


def _shortest(data: Sequence[str], forms: Sequence[Sequence[str]]) -> dict[str, str]:
    names = next((names for names in forms if len(set(names)) == len(names)), data)
    return dict(zip(data, names, strict=True))


def spread_text(spread: Spread | None, decimals: int | None = None) -> str | None:
    """The mean, and what it is spread by with the same number of decimals."""
    if spread is None:
        return None
    text = tables.ppl(spread.mean) if decimals is None else f"{spread.mean:.{decimals}f}"
    if spread.deviation is None:
        return text
    if "e" in text:
        return f"{text} ± {tables.significant(spread.deviation, 2)}"
    return f"{text} ± {spread.deviation:.{len(text.partition('.')[2])}f}"
