"""Comparisons of runs as tables: rounded for people, in full for programs."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jprune.report import tables
from jprune.report.comparison import BEFORE, Comparison, Figure, Row, is_free
from jprune.report.fields import mapping
from jprune.report.names import group_names, short_names, spread_text
from jprune.report.sections import protocol_text, removed_text, unit_list
from jprune.report.spread import Spread
from jprune.report.tables import Cell, Table

# Settings of the criterion; a column shows those that differ between the rows.
_SETTINGS = ("options", "protect", "calibration", "num_windows", "window_length", "sample")
# Of sparse runs all others too, apart from these, which are said elsewhere or are the same for all.
_SAID = (
    *("job", "name", "seed", "criterion", "allocation", "pattern", "sparsity", "remove"),
    *("granularity", "eval", "eval_windows", "protocol", "dtype", "data_dir", "retrain"),
)


def comparison_table(comparison: Comparison) -> Table:
    """One row per run with rounded figures; the caption says what they are.

    Columns that would be empty are left out.
    """
    rows = comparison.rows
    names = group_names([row.runs for row in rows])
    several = any(len(row.runs) > 1 for row in rows)
    columns: dict[str, list[Cell]] = {
        "Run": list(names),
        "Model": [_model(row) for row in rows],
        "Criterion": [_criterion(row) for row in rows],
        "Allocation": [_of_sparse(row, "allocation") for row in rows],
        "Pattern": [_of_sparse(row, "pattern") for row in rows],
        "Granularity": [_granularity(row) for row in rows],
        "Settings": _settings(rows),
        "Target (%)": [_percent(_of_sparse(row, "target")) for row in rows],
        "Sparsity (%)": [_percent(_mean(row.sparsity), ".2f") for row in rows],
        "Removed": [_removed(row) for row in rows],
        "Retrained": [_retrained(row) for row in rows],
        "Seeds": [len(row.runs) if several else None for row in rows],
        "Parameters": [tables.count(_mean(row.parameters)) for row in rows],
        "Left": [f"{100 * row.ratio.mean:.1f}%" if row.ratio else None for row in rows],
    }
    short = short_names(list(comparison.protocols))
    for data in comparison.protocols:
        label = f"{short[data]} " if len(short) > 1 else ""
        figures = [row.figures[data] for row in rows]
        columns |= {
            f"{label}PPL before": [tables.ppl(_mean(f.before)) for f in figures],
            f"{label}PPL": [spread_text(f.after) for f in figures],
            f"{label}PPL retrained": [spread_text(f.retrained) for f in figures],
            f"{label}recovered (%)" if label else "Recovered (%)": [
                spread_text(f.recovered, decimals=1) for f in figures
            ],
            f"{label}retained (%)" if label else "Retained (%)": [
                spread_text(f.retained, decimals=1) for f in figures
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
    names = group_names([row.runs for row in comparison.rows])
    sparse = any(row.sparsity for row in comparison.rows)
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
            "retrained": _retrained(row),
            "removed_units": " | ".join(unit_list(run.record.removed) for run in row.runs),
            "parameters_before": _exact(row.parameters_before),
            "parameters": _exact(row.parameters),
            "parameters_deviation": row.parameters.deviation if row.parameters else None,
            "parameters_ratio": _mean(row.ratio),
            "parameters_ratio_deviation": row.ratio.deviation if row.ratio else None,
            **(_sparse_values(row) if sparse else {}),
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
    return tables.with_caption(comparison_table(comparison), format)


def _figure_values(figure: Figure) -> dict[str, float | None]:
    values: dict[str, float | None] = {}
    for name, spread in (
        ("ppl_before", figure.before),
        ("ppl", figure.after),
        ("ppl_retrained", figure.retrained),
        ("recovered_percent", figure.recovered),
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
    if any(_retrained(row) for row in comparison.rows):
        lines.append(
            "Retrained runs: retained by the retrained model; recovered: the share of the rise in "
            "NLL that retraining made good."
        )
    sparse = [run.record.sparse for row in comparison.rows for run in row.runs if run.record.sparse]
    if sparse:
        lines.append(
            "Sparsity: of the weights in the linear layers of the blocks, those that are zero, "
            "which count as parameters left"
            + ("; by width, those that are gone." if any(s.is_width for s in sparse) else ".")
        )
    if any(len(row.runs) > 1 for row in comparison.rows):
        lines.append("With several seeds: mean ± standard deviation over them.")
    if len(comparison.models) > 1:
        lines.append(
            "The models differ: their perplexities compare only if their tokenizers are the same."
        )
    if comparison.left_out:
        lines.append(f"Not evaluated in all runs, left out: {', '.join(comparison.left_out)}.")
    return "\n".join(lines)


def _model(row: Row) -> str | None:
    record = row.runs[0].record
    name = record.model.get("name") or record.setting("model")
    return str(name) if name else None


def _criterion(row: Row) -> str | None:
    record = row.runs[0].record
    if record.sparse:
        return record.sparse.criterion
    if not record.removed:
        return None
    chosen = record.chosen.criterion if record.chosen else None
    return record.setting("criterion") or chosen


def _granularity(row: Row) -> Any:
    return _setting(row, "granularity") if row.runs[0].record.removed else None


def _of_sparse(row: Row, key: str) -> Any:
    """A field of the sparsity of a row's runs, which it does not differ in."""
    return getattr(row.runs[0].record.sparse, key, None)


def _percent(share: float | None, form: str = ".6g") -> str | None:
    return None if share is None else f"{100 * share:{form}}"


def _sparse_values(row: Row) -> dict[str, Any]:
    keys = ("allocation", "pattern", "target", "weights", "zeros", "stored", "smallest")
    allocation, pattern, target, weights, zeros, stored, smallest = (
        _of_sparse(row, key) for key in keys
    )
    width = _of_sparse(row, "is_width")
    return {
        "allocation": allocation,
        "pattern": pattern,
        "sparsity_target": target,
        "sparsity": _mean(row.sparsity),
        "sparsity_deviation": row.sparsity.deviation if row.sparsity else None,
        "sparse_weights": weights,
        "sparse_zeros": zeros,
        "bytes_stored": stored,
        "bytes_compressed": None if width else smallest,
        "bytes_unpadded": smallest if width else None,
    }


def _setting(row: Row, key: str) -> Any:
    return row.runs[0].record.setting(key)


def _plain(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, Mapping | list) else value


def _settings(rows: Sequence[Row]) -> list[Cell]:
    sparse = [row for row in rows if row.sparsity]
    further = [key for key in _further(sparse) if len({str(_setting(r, key)) for r in sparse}) > 1]
    keys = (*_SETTINGS, *further)
    values = {key: [_plain(_setting(row, key)) for row in rows] for key in keys}
    different = [key for key, found in values.items() if any(v != found[0] for v in found)]
    return [
        ", ".join(
            f"{key} {values[key][i]}" for key in different if values[key][i] not in (None, "", "{}")
        )
        or None
        for i in range(len(rows))
    ]


def _further(rows: Sequence[Row]) -> list[str]:
    """The keys of sparse runs' configs that no column has."""
    configs = [mapping(row.runs[0].record.config.get("config")) for row in rows]
    found = dict.fromkeys(key for config in configs for key in config)
    return [key for key in found if key not in (*_SAID, *_SETTINGS) and not is_free(key)]


def _removed(row: Row) -> str | None:
    """How much is gone; with seeds that remove different parts, only how many units."""
    texts = {removed_text(run.record) for run in row.runs if run.record.removed}
    if len(texts) <= 1:
        return next(iter(texts), None)
    layers = row.runs[0].record.pair("layers")[0]
    return f"{len(row.runs[0].record.removed)} sublayers of {layers} layers"


def _retrained(row: Row) -> str | None:
    """The kind of retraining; None without any."""
    kind = mapping(row.runs[0].record.figures.get("retrain")).get("kind")
    found = kind or mapping(_setting(row, "retrain")).get("kind")
    return None if found in (None, "none") else str(found)


def _mean(spread: Spread | None) -> float | None:
    return spread.mean if spread else None


def _exact(spread: Spread | None) -> int | float | None:
    """A mean of counts, as a count where it is one."""
    if spread is None:
        return None
    return int(spread.mean) if spread.mean.is_integer() else spread.mean
