"""Comparisons of runs as tables: rounded for people, in full for programs."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from jprune.report import tables
from jprune.report.comparable import Run
from jprune.report.comparison import BEFORE, Comparison, Figure, Row, Spread
from jprune.report.sections import protocol_text, removed_text, unit_list
from jprune.report.tables import Cell, Table

# Settings of the criterion; a column shows those that differ between the rows.
_SETTINGS = ("options", "protect", "calibration", "num_windows", "window_length", "sample")


def comparison_table(comparison: Comparison) -> Table:
    """One row per run with rounded figures; the caption says what they are.

    Columns that would be empty are left out.
    """
    rows = comparison.rows
    names = _row_names(rows)
    several = any(len(row.runs) > 1 for row in rows)
    columns: dict[str, list[Cell]] = {
        "Run": list(names),
        "Model": [_model(row) for row in rows],
        "Criterion": [_criterion(row) for row in rows],
        "Granularity": [_setting(row, "granularity") if _criterion(row) else None for row in rows],
        "Settings": _settings(rows),
        "Removed": [_removed(row) for row in rows],
        "Seeds": [len(row.runs) if several else None for row in rows],
        "Parameters": [tables.count(_mean(row.parameters)) for row in rows],
        "Left": [f"{100 * row.ratio.mean:.1f}%" if row.ratio else None for row in rows],
    }
    short = _short_names(list(comparison.protocols))
    for data in comparison.protocols:
        label = f"{short[data]} " if len(short) > 1 else ""
        figures = [row.figures[data] for row in rows]
        columns |= {
            f"{label}PPL before": [tables.ppl(_mean(f.before)) for f in figures],
            f"{label}PPL": [_spread(f.after) for f in figures],
            f"{label}retained (%)" if label else "Retained (%)": [
                _spread(f.retained, decimals=1) for f in figures
            ],
        }
    kept = {
        name: cells
        for name, cells in columns.items()
        if any(cell not in (None, tables.MISSING) for cell in cells)
    }
    body = [tuple(cells[i] for cells in kept.values()) for i in range(len(rows))]
    return Table(tuple(kept), body, _caption(comparison, short))


def comparison_values(comparison: Comparison) -> list[dict[str, Any]]:
    """One flat mapping per row, in full precision: the columns of the CSV file.

    Numbers that have a unit carry it in their name. What belongs to one data source is named
    after it: `wikitext2.ppl`. An empty field was not measured.
    """
    names = _row_names(comparison.rows)
    result = []
    for name, row in zip(names, comparison.rows, strict=True):
        values: dict[str, Any] = {
            "run": name,
            "workdirs": " ".join(run.label for run in row.runs),
            "config": row.runs[0].record.config.get("name"),
            "model": _model(row),
            "model_sha256": row.runs[0].record.model.get("sha256"),
            "criterion": _criterion(row),
            "granularity": _setting(row, "granularity"),
            **{key: _plain(_setting(row, key)) for key in _SETTINGS},
            "dtype": _setting(row, "dtype"),
            "seeds": " ".join(str(run.seed) for run in row.runs if run.seed is not None),
            "runs": len(row.runs),
            "removed": _removed(row),
            "removed_units": " | ".join(unit_list(run.record.removed) for run in row.runs),
            "parameters_before": _exact(row.parameters_before),
            "parameters": _exact(row.parameters),
            "parameters_deviation": row.parameters.deviation if row.parameters else None,
            "parameters_ratio": _mean(row.ratio),
            "parameters_ratio_deviation": row.ratio.deviation if row.ratio else None,
            "reference": comparison.reference,
        }
        for data, protocol in comparison.protocols.items():
            values |= {f"{data}.{key}": v for key, v in _figure_values(row.figures[data]).items()}
            values[f"{data}.protocol"] = json.dumps(dict(protocol))
        result.append(values)
    return result


def render_comparison(comparison: Comparison, format: str = "text") -> str:
    """The table in one of `jprune.report.tables.FORMATS`; all but CSV end with the caption.

    Raises:
      InputError: for an unknown format.
    """
    if format == "csv":
        values = comparison_values(comparison)
        return tables.render(tuple(values[0]), [tuple(row.values()) for row in values], "csv")
    table = comparison_table(comparison)
    text = tables.render(table.columns, table.rows, format)
    if format == "tex":
        return "\n".join([text, *(f"% {line}" for line in table.caption.splitlines())])
    if format == "md":
        return f"{text}\n\n{tables.escape_markdown(table.caption)}"
    return f"{text}\n{table.caption}"


def _figure_values(figure: Figure) -> dict[str, float | None]:
    values: dict[str, float | None] = {}
    for name, spread in (
        ("ppl_before", figure.before),
        ("ppl", figure.after),
        ("nll_nats", figure.nll),
        ("retained_percent", figure.retained),
    ):
        values[name] = _mean(spread)
        values[f"{name}_deviation"] = spread.deviation if spread else None
    return values | {"nll_nats_standard_error": _mean(figure.standard_error)}


def _caption(comparison: Comparison, short: Mapping[str, str]) -> str:
    protocols: dict[str, list[str]] = {}
    for data, protocol in comparison.protocols.items():
        protocols.setdefault(protocol_text(protocol), []).append(short[data])
    measured = "; ".join(f"{', '.join(data)}: {text}" for text, data in protocols.items())
    lines = [f"PPL on {measured}."]
    what = "its unpruned model" if comparison.reference == BEFORE else comparison.reference
    lines.append(f"Retained: 100 × PPL of {what} / PPL. Left: parameters of the unpruned model.")
    if any(len(row.runs) > 1 for row in comparison.rows):
        lines.append("With several seeds: mean ± standard deviation over them.")
    if len(comparison.models) > 1:
        lines.append(
            "The models differ: their perplexities compare only if their tokenizers are the same."
        )
    if comparison.left_out:
        lines.append(f"Not evaluated in all runs, left out: {', '.join(comparison.left_out)}.")
    return "\n".join(lines)


def _row_names(rows: Sequence[Row]) -> list[str]:
    """The names of the workdirs, or the whole paths where names repeat; `p-{0,1}` for several."""
    runs = [run for row in rows for run in row.runs]
    names = [run.record.name for run in runs]
    unique = len(set(names)) == len(names)

    def name(run: Run) -> str:
        return run.record.name if unique else run.label

    return [_joined([name(run) for run in row.runs]) for row in rows]


def _joined(names: Sequence[str]) -> str:
    if len(names) == 1:
        return names[0]
    prefix = os.path.commonprefix(list(names)).rstrip("0123456789")
    if not prefix:
        return ", ".join(names)
    return f"{prefix}{{{','.join(name.removeprefix(prefix) for name in names)}}}"


def _short_names(data: Sequence[str]) -> dict[str, str]:
    """Data sources without their folders, where that leaves them different."""
    names = [source.rpartition("/")[2] for source in data]
    return dict(zip(data, names if len(set(names)) == len(names) else data, strict=True))


def _model(row: Row) -> str | None:
    record = row.runs[0].record
    name = record.model.get("name") or record.setting("model")
    return str(name) if name else None


def _criterion(row: Row) -> str | None:
    record = row.runs[0].record
    if not record.removed:
        return None
    chosen = record.chosen.criterion if record.chosen else None
    return record.setting("criterion") or chosen


def _setting(row: Row, key: str) -> Any:
    return row.runs[0].record.setting(key)


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, Mapping | list) else value


def _settings(rows: Sequence[Row]) -> list[Cell]:
    values = {key: [_plain(_setting(row, key)) for row in rows] for key in _SETTINGS}
    different = [key for key, found in values.items() if any(v != found[0] for v in found)]
    return [
        ", ".join(
            f"{key} {values[key][i]}" for key in different if values[key][i] not in (None, "", "{}")
        )
        or None
        for i in range(len(rows))
    ]


def _removed(row: Row) -> str | None:
    """How much is gone; with seeds that remove different parts, only how many units."""
    texts = {removed_text(run.record) for run in row.runs if run.record.removed}
    if len(texts) <= 1:
        return next(iter(texts), None)
    layers = row.runs[0].record.pair("layers")[0]
    return f"{len(row.runs[0].record.removed)} sublayers of {layers} layers"


def _mean(spread: Spread | None) -> float | None:
    return spread.mean if spread else None


def _exact(spread: Spread | None) -> int | float | None:
    """A mean of counts, as a count where it is one."""
    if spread is None:
        return None
    return int(spread.mean) if spread.mean.is_integer() else spread.mean


def _spread(spread: Spread | None, decimals: int | None = None) -> str | None:
    """The mean, and what it is spread by with the same number of decimals."""
    if spread is None:
        return None
    text = tables.ppl(spread.mean) if decimals is None else f"{spread.mean:.{decimals}f}"
    if spread.deviation is None:
        return text
    if "e" in text:
        return f"{text} ± {tables.significant(spread.deviation, 2)}"
    return f"{text} ± {spread.deviation:.{len(text.partition('.')[2])}f}"
