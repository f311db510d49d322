"""One run as tables: what was removed, perplexities, tasks, curves, sizes, stages."""

from collections.abc import Mapping
from typing import Any

from jprune.report import tables
from jprune.report.reading import PART_NAMES, Evaluation, RunRecord
from jprune.report.score_tables import score_name
from jprune.report.sections import DATA_KEYS, protocol_text
from jprune.report.tables import Table


def removed_table(run: RunRecord) -> Table:
    """Original index and part of each removed unit, with its score and rank where known."""
    chosen = run.chosen
    where = {u: i for i, u in enumerate(chosen.units)} if chosen else {}
    ranks = {i: r for r, i in enumerate(chosen.order, start=1)} if chosen else {}
    rows = []
    for layer, part in run.removed:
        position = where.get((layer, part), -1)
        score = chosen.scores[position] if chosen and position >= 0 else None
        rows.append((layer, PART_NAMES[part], score, ranks.get(position)))
    columns = ("Original index", "Part", score_name(chosen) if chosen else "Score", "Rank")
    if all(row[2] is None and row[3] is None for row in rows):
        return Table(columns[:2], [row[:2] for row in rows])
    return Table(columns, rows)


def evaluation_tables(run: RunRecord) -> list[Table]:
    """Perplexity, one table for each protocol."""
    groups: list[tuple[dict[str, Any], list[Evaluation]]] = []
    for e in run.evaluations:
        key = {k: v for k, v in e.protocol.items() if k not in DATA_KEYS}
        group = next((g for k, g in groups if k == key), None)
        if group is None:
            groups.append((key, [e]))
        else:
            group.append(e)
    result = []
    for key, group in groups:
        reference = {e.data: e.ppl for e in reversed(group)}
        rows = [
            (
                e.data, e.phase, tables.ppl(e.ppl),
                tables.ratio(e.ppl, reference[e.data]) if e.phase != group[0].phase else None,
                tables.plus_minus(e.nll, e.standard_error), e.tokens,
            )
            for e in sorted(group, key=lambda e: list(reference)[::-1].index(e.data))
        ]  # fmt: skip
        columns = ("Data", "Model", "PPL", "Ratio", "NLL ± standard error", "Tokens")
        if all(row[3] is None for row in rows):
            columns, rows = _without(columns, 3), [_without(row, 3) for row in rows]
        caption = f"Perplexity: {protocol_text(key) or 'no protocol recorded'}."
        result.append(Table(columns, rows, caption))
    return result


def _without(values: tuple, position: int) -> tuple:
    return values[:position] + values[position + 1 :]


def task_table(run: RunRecord) -> Table:
    """Multiple-choice tasks: one row per task, metric and state of the model."""
    rows = [
        (
            t.get("task"),
            t.get("metric"),
            phase,
            _percent(t.get("value"), t.get("stderr")),
            t.get("n"),
        )
        for phase in run.phases
        for t in run.figures[phase].get("tasks") or ()
        if isinstance(t, Mapping)
    ]
    rows.sort(key=lambda row: (str(row[0]), str(row[1])))
    return Table(("Task", "Metric", "Model", "Value (%)", "Questions"), rows, "Zero-shot tasks.")


def _percent(value, stderr) -> str:
    scale = 100.0
    return tables.plus_minus(
        None if value is None else scale * value, None if stderr is None else scale * stderr, 2
    )


def curve_table(curve: Mapping[str, Any]) -> Table:
    """Perplexity by number of removed units, a column per criterion."""
    series = [s for s in curve.get("series") or () if isinstance(s, Mapping)]
    numbers = sorted({n for s in series for n in s.get("removed") or ()})
    columns = [dict(zip(s.get("removed") or (), s.get("ppl") or (), strict=False)) for s in series]
    rows = [(n, *(tables.ppl(column.get(n)) for column in columns)) for n in numbers]
    protocol = protocol_text(curve.get("protocol") or {})
    caption = f"PPL: {curve.get('data') or 'unknown data'}; {protocol}" if protocol else ""
    return Table(("Removed", *(str(s.get("criterion")) for s in series)), rows, caption)


def sizes_table(run: RunRecord) -> Table:
    """Layers, parameters and bytes before and after."""
    rows = []
    for key, name in (("layers", "Layers"), ("parameters", "Parameters"), ("bytes", "Bytes")):
        old, new = run.pair(key)
        if old is None and new is None:
            continue
        exact = [tables.MISSING if v is None else f"{v:,}" for v in (old, new)]
        rows.append((name, *exact, tables.change(new, old)))
    return Table(("", "Before", "After", "Change"), rows)


def stages_table(run: RunRecord) -> Table:
    """The stages of the run and how long each took when it was computed.

    The stage that writes this page is left out, and so is the difference between done and cached:
    the page then stays the same, byte for byte, when it is rebuilt after the run.
    """
    stages = [s for s in run.stages if s.get("name") != "report" and s.get("status") != "running"]
    rows = [
        (str(s.get("name")), tables.duration(s.get("seconds")), str(s.get("status")))
        for s in stages
    ]
    if all(status in ("done", "cached") for _, _, status in rows):
        return Table(("Stage", "Time"), [row[:2] for row in rows])
    return Table(("Stage", "Time", "Status"), rows)
