"""What retraining brought back: tables of the figures before, pruned and retrained."""

import math
from collections.abc import Mapping
from typing import Any

from jprune.report import tables
from jprune.report.fields import mapping, mappings
from jprune.report.reading import Evaluation, RunRecord
from jprune.report.sections import protocol_text
from jprune.report.tables import Cell, Table

DENSE, PRUNED, RETRAINED = "before", "after", "retrained"


def recovered(
    dense: Evaluation | None, pruned: Evaluation | None, retrained: Evaluation | None
) -> float | None:
    """The share of the loss of pruning that retraining made good, in NLL: 1 is all of it.

    (NLL pruned - NLL retrained) / (NLL pruned - NLL dense); None where pruning lost nothing.
    """
    every = [one.nll for one in (dense, pruned, retrained) if one is not None]
    nll = [value for value in every if value is not None and math.isfinite(value)]
    if len(nll) < 3 or nll[1] <= nll[0]:
        return None
    return (nll[1] - nll[2]) / (nll[1] - nll[0])


def retained(dense: Evaluation | None, one: Evaluation | None) -> float | None:
    """100 * PPL of the dense model / PPL, in percent."""
    if not (dense and one and dense.ppl and one.ppl):
        return None
    return 100 * dense.ppl / one.ppl


def recovery_table(run: RunRecord) -> Table:
    """A row for each data source on which the retrained model was measured like the others."""
    rows, protocols = [], []
    for last in run.evaluations:
        if last.phase != RETRAINED:
            continue
        same = [e for e in run.evaluations if (e.data, e.protocol) == (last.data, last.protocol)]
        found = {e.phase: e for e in same}
        dense, pruned = found.get(DENSE), found.get(PRUNED)
        share, left = recovered(dense, pruned, last), retained(dense, last)
        rows.append(
            (
                last.data,
                *(tables.ppl(e.ppl if e else None) for e in (dense, pruned, last)),
                None if share is None else f"{100 * share:.1f}%",
                None if left is None else f"{left:.1f}%",
            )
        )
        protocols.append(protocol_text(last.protocol))
    caption = (
        "Recovered: the share of the rise in NLL that retraining made good. Retained: PPL of the "
        "whole model / PPL."
    )
    if protocols:
        caption = f"PPL: {'; '.join(dict.fromkeys(protocols))}. {caption}"
    columns = ("Data", "PPL before", "Pruned", "Retrained", "Recovered", "Retained")
    return Table(columns, rows, caption)


def training_words(run: RunRecord) -> str:
    """How the model was retrained, in a sentence; empty where it was not."""
    done = mapping(run.figures.get("retrain"))
    if not done:
        return ""
    group = mapping(run.setting("retrain"))
    parts = [
        f"By {done.get('kind')}",
        f"{tables.count(done.get('parameters'))} parameters trained",
        f"{done.get('steps')} steps, {tables.count(done.get('tokens'))} tokens of "
        f"{group.get('data')}",
    ]
    validation = done.get("validation_nll")
    if isinstance(validation, int | float):
        parts.append(f"validation NLL {validation:.4g} nats per token at the end")
    return ", ".join(parts) + "."


def rounds_table(run: RunRecord) -> Table:
    """PPL after every round of pruning and retraining, a row for each round and data source."""
    rows: list[tuple[Cell, ...]] = []
    for one in mappings(run.figures.get("rounds")):
        figures = mapping(one.get("figures"))
        by_phase = {
            phase: {
                e.get("data"): e for e in mappings(mapping(figures.get(phase)).get("perplexity"))
            }
            for phase in (DENSE, PRUNED, RETRAINED)
        }
        sizes = mapping(mapping(one.get("model")).get("layers"))
        parameters = mapping(mapping(one.get("model")).get("parameters"))
        for data in by_phase[PRUNED]:
            ppl = [by_phase[phase].get(data, {}).get("ppl") for phase in by_phase]
            rows.append(
                (
                    one.get("round"),
                    sizes.get("after"),
                    tables.count(parameters.get("after")),
                    str(data),
                    *map(tables.ppl, ppl),
                )
            )
    columns = ("Round", "Layers", "Parameters", "Data", "PPL before", "Pruned", "Retrained")
    return Table(columns, rows, "PPL of the model that each round begins with, and ends with.")


def _by_data(figures: Mapping[str, Any], phase: str) -> dict[Any, Mapping[str, Any]]:
    """The perplexities of a state of the model by data source."""
    return {e.get("data"): e for e in mappings(mapping(figures.get(phase)).get("perplexity"))}
