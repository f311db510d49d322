"""What rows and columns of a comparison are called, and how their figures are written."""

import os
from collections.abc import Sequence

from jprune.report import tables
from jprune.report.comparable import Run
from jprune.report.comparison import Spread


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
    names = [source.rpartition("/")[2] for source in data]
    return dict(zip(data, names if len(set(names)) == len(names) else data, strict=True))


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
