"""Tables of what searches came to: a row per model, with NLL, PPL and percentage on all data."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jprune.report.names import brief_names, spread_text
from jprune.report.objectives import (
    BASE,
    MEAN,
    RESULT,
    Measured,
    measured_models,
    perplexity,
    reference_of,
    report_data,
    retained,
)
from jprune.report.reading import RunRecord
from jprune.report.searches import DEPTH, REMOVAL
from jprune.report.sections import protocol_text
from jprune.report.spread import Spread
from jprune.report.tables import Cell, Table


@dataclass(frozen=True)
class ObjectiveFigure:
    """A model on one data source, or the mean over them.

    Attributes:
      nll: in nats per token.
      ppl: exp of that.
      retained: 100 * PPL of the reference / PPL.
      reference: what 100% is.
    """

    nll: Spread
    ppl: Spread
    retained: Spread | None
    reference: str


@dataclass(frozen=True)
class ObjectiveRow:
    """One model of a run, or the same of several runs that differ in nothing but their seed.

    Attributes:
      run: what the runs are called.
      key: what the model is, see `jprune.report.objectives.Measured`.
      name: in words, with what it was made of.
      removed: how many units are gone.
      figures: by data source, and under "mean" the mean over them.
    """

    run: str
    key: str
    name: str
    removed: int
    figures: Mapping[str, ObjectiveFigure]


def objective_rows(
    records: Sequence[RunRecord], data: Sequence[str], name: str = ""
) -> list[ObjectiveRow]:
    """The models that all of some runs have, which differ in nothing but their seed.

    Args:
      records: the runs.
      data: what all of them were evaluated on.
      name: of the runs.
    """
    found = [
        {(model.key, model.is_variant): model for model in measured_models(record, data)}
        for record in records
    ]
    shared = [key for key in found[0] if all(key in models for models in found)]
    references = {
        column: [reference_of(tuple(models.values()), column) for models in found]
        for column in (*data, MEAN)
    }
    rows = []
    for key in shared:
        models = [one[key] for one in found]
        rows.append(
            ObjectiveRow(
                run=name,
                key=key[0],
                name=_joined(models),
                removed=models[0].removed,
                figures={column: _figure(models, column, of) for column, of in references.items()},
            )
        )
    return rows


def objectives_table(
    rows: Sequence[ObjectiveRow], protocols: Mapping[str, Mapping[str, Any]], seeds: int = 1
) -> Table:
    """A row per model with rounded figures; the caption says what they are.

    Args:
      rows: of `objective_rows`; with runs of several kinds there is a column for their names.
      protocols: by data source.
      seeds: how many runs a row has at most.
    """
    brief = brief_names(list(protocols))
    blocks = {**brief, MEAN: MEAN} if len(brief) > 1 else brief
    several = len({row.run for row in rows}) > 1
    columns = (
        *(["Run"] if several else []),
        "Model",
        "Removed",
        *(word for label in blocks.values() for word in (f"{label} NLL", "PPL", "%")),
    )
    body: list[tuple[Cell, ...]] = [
        (
            *([row.run] if several else []),
            row.name,
            row.removed,
            *(cell for column in blocks for cell in _cells(row.figures[column])),
        )
        for row in rows
    ]
    return Table(columns, body, _caption(rows, protocols, brief, seeds))


def run_objectives_table(run: RunRecord) -> Table | None:
    """The table of one search; None of other runs, and where nothing was evaluated."""
    data = report_data(run)
    rows = objective_rows([run], data) if run.search else []
    if not rows:
        return None
    return objectives_table(rows, protocols_of(run, data))


def protocols_of(run: RunRecord, data: Sequence[str]) -> dict[str, Mapping[str, Any]]:
    """How the result was measured on each data source."""
    found = {e.data: e.protocol for e in run.evaluations if e.phase == RESULT}
    return {name: found[name] for name in data}


def objective_values(rows: Sequence[ObjectiveRow]) -> list[dict[str, Any]]:
    """One flat mapping per row, in full precision: the columns of the CSV file.

    What belongs to one data source is named after it: `gsm8k.jsonl.nll_nats`.
    """
    result = []
    for row in rows:
        values: dict[str, Any] = {
            "run": row.run,
            "model": row.name,
            "kind": row.key,
            "removed": row.removed,
        }
        for column, figure in row.figures.items():
            for key, spread in (
                ("nll_nats", figure.nll),
                ("ppl", figure.ppl),
                ("retained_percent", figure.retained),
            ):
                values[f"{column}.{key}"] = spread.mean if spread else None
                values[f"{column}.{key}_deviation"] = spread.deviation if spread else None
            values[f"{column}.reference"] = figure.reference
        result.append(values)
    return result


def _figure(
    models: Sequence[Measured], column: str, references: Sequence[Measured | None]
) -> ObjectiveFigure:
    nll = [model.on(column) for model in models]
    shares = [
        retained(best.on(column), model.on(column)) if best else None
        for model, best in zip(models, references, strict=True)
    ]
    return ObjectiveFigure(
        nll=_spread(nll),
        ppl=_spread([perplexity(one) for one in nll]),
        retained=Spread.of(shares),
        reference=", ".join(dict.fromkeys(best.label for best in references if best)),
    )


def _spread(values: Sequence[float]) -> Spread:
    found = Spread.of(values)
    assert found is not None  # models without an NLL are not there
    return found


def _joined(models: Sequence[Measured]) -> str:
    """The name of a row; where seeds made it with different models, all of them."""
    details = dict.fromkeys(model.detail.removeprefix("of ") for model in models)
    prefix = "of " if models[0].detail.startswith("of ") else ""
    detail = prefix + ", ".join(details)
    return f"{models[0].name} ({detail})" if detail else models[0].name


def _cells(figure: ObjectiveFigure) -> tuple[Cell, ...]:
    return (
        spread_text(figure.nll, decimals=3),
        spread_text(figure.ppl),
        spread_text(figure.retained, decimals=1),
    )


def _caption(
    rows: Sequence[ObjectiveRow],
    protocols: Mapping[str, Mapping[str, Any]],
    brief: Mapping[str, str],
    seeds: int,
) -> str:
    measured: dict[str, list[str]] = {}
    for data, protocol in protocols.items():
        name = data if brief[data] == data else f"{brief[data]} ({data})"
        measured.setdefault(protocol_text(protocol), []).append(name)
    words = "; ".join(f"{', '.join(data)}: {text}" for text, data in measured.items())
    references = {row.figures[MEAN].reference for row in rows}
    is_base = references <= {row.name for row in rows if row.key == BASE}
    best = "the unpruned base" if is_base else "the variant that is best in that column"
    lines = [
        f"NLL in nats per token on {words}.",
        f"%: retained of {best}: 100 × its PPL / PPL, which is 100 × exp of the difference in NLL.",
    ]
    if len(protocols) > 1:
        lines.append("mean: of the NLL over the data sources; its PPL is exp of that.")
    if {row.key for row in rows} & {DEPTH, REMOVAL}:
        lines.append(
            "Of the depth-pruned models, and of the searches that only remove, the best by these "
            "figures is shown."
        )
    if seeds > 1:
        lines.append("With several seeds: mean ± standard deviation over them.")
    return "\n".join(lines)
