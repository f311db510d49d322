"""Curves of perplexity against sparsity of several runs in one table."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jprune.core.errors import InputError
from jprune.report import tables
from jprune.report.comparable import Run, check_protocol, read_runs
from jprune.report.comparison import seed_groups
from jprune.report.names import group_names, spread_text
from jprune.report.sections import protocol_text
from jprune.report.sparsity import SparsityCurve, SparsitySeries
from jprune.report.spread import Spread
from jprune.report.tables import Cell, Table


@dataclass(frozen=True)
class CurveColumn:
    """One allocation of one run, or of several that differ in nothing but their seed.

    Attributes:
      name: what tells it from the other columns.
      runs: as read.
      criterion: of the curve.
      pattern: of the curve; None for width.
      allocation: how the rates of the blocks were chosen.
      ppl: by target sparsity; only what all of the runs measured.
      achieved: the same of the sparsity that came out.
    """

    name: str
    runs: tuple[Run, ...]
    criterion: str
    pattern: str | None
    allocation: str
    ppl: Mapping[float, Spread]
    achieved: Mapping[float, Spread]


@dataclass(frozen=True)
class CurveComparison:
    """What `compare_curves` gives.

    Attributes:
      columns: run by run, in the order in which the workdirs were given.
      data: what all curves were measured on.
      protocol: how.
      dense: PPL of the unpruned model, for each column; None where it is not known.
      left_out: whether some of the runs of a column measured more than the others.
      models: SHA-256 of every model that was pruned.
    """

    columns: tuple[CurveColumn, ...]
    data: str
    protocol: Mapping[str, Any]
    dense: tuple[Spread | None, ...]
    left_out: bool
    models: frozenset[str | None]


def compare_curves(workdirs: Sequence[Any], per_run: bool = False) -> CurveComparison:
    """Puts the sparsity curves of finished runs side by side.

    Args:
      workdirs: folders that `jprune run` wrote.
      per_run: give each run columns of its own, also those that differ only in their seed.

    Raises:
      InputError: a folder that is no workdir, or given twice; a run that is not finished or has no
        such curve; curves on different data or with different protocols; seeds whose curves have no
        point in common.
    """
    runs = read_runs(workdirs)
    first = _curve(runs[0])
    for run in runs:
        curve = _curve(run)
        if curve.data != first.data:
            raise InputError(
                f"the curve of {runs[0].label} is on {first.data}, that of {run.label} on "
                f"{curve.data}; a table compares figures on the same data"
            )
        check_protocol(runs[0], run, first.data, first.protocol, curve.protocol)
    groups = [[run] for run in runs] if per_run else seed_groups(runs)
    columns: list[CurveColumn] = []
    dense: list[Spread | None] = []
    for label, group in zip(_labels(groups), groups, strict=True):
        found = _columns(label, group)
        columns += found
        dense += [Spread.of([_curve(run).dense for run in group])] * len(found)
    if not columns:
        raise InputError(
            "the curves of these runs have no allocation and sparsity in common; give --per_run"
        )
    return CurveComparison(
        columns=tuple(columns),
        data=first.data,
        protocol=first.protocol,
        dense=tuple(dense),
        left_out=any(_differs(group) for group in groups),
        models=frozenset(run.record.model.get("sha256") for run in runs),
    )


def curves_table(comparison: CurveComparison) -> Table:
    """A row per target sparsity, 0% for the unpruned models; rounded."""
    columns = comparison.columns
    targets = sorted({target for column in columns for target in column.ppl})
    rows: list[tuple[Cell, ...]] = [
        (tables.rate(t), *(spread_text(column.ppl.get(t)) for column in columns)) for t in targets
    ]
    lines = [f"PPL on {comparison.data}: {protocol_text(comparison.protocol)}."]
    methods = {_curve(column.runs[0]).pruner for column in columns}
    if len(methods) == 1:
        lines.append(f"Pruned by {methods.pop()}.")
    if any(comparison.dense) and 0 not in targets:
        rows.insert(0, (tables.rate(0), *(tables.ppl(_mean(d)) for d in comparison.dense)))
        lines.append("0%: the unpruned model.")
    if any(len(column.runs) > 1 for column in columns):
        lines.append("With several seeds: mean ± standard deviation over them.")
    if comparison.left_out:
        lines.append("What only some of the seeds measured is left out.")
    if len(comparison.models) > 1:
        lines.append(
            "The models differ: their perplexities compare only if their tokenizers are the same."
        )
    return Table(("Sparsity", *(c.name for c in columns)), rows, "\n".join(lines))


def curve_values(comparison: CurveComparison) -> list[dict[str, Any]]:
    """One flat mapping per point of each column, in full precision: the rows of the CSV file."""
    return [
        {
            "sparsity": target,
            "column": column.name,
            "workdirs": " ".join(run.label for run in column.runs),
            "criterion": column.criterion,
            "pattern": column.pattern,
            "allocation": column.allocation,
            "seeds": " ".join(str(run.seed) for run in column.runs if run.seed is not None),
            "runs": len(column.runs),
            "achieved": _mean(column.achieved.get(target)),
            "ppl": spread.mean,
            "ppl_deviation": spread.deviation,
            "ppl_dense": _mean(dense),
        }
        for column, dense in zip(comparison.columns, comparison.dense, strict=True)
        for target, spread in sorted(column.ppl.items())
    ]


def render_curves(comparison: CurveComparison, format: str = "text") -> str:
    """The table in one of `jprune.report.tables.FORMATS`; CSV has `curve_values`.

    Raises:
      InputError: for an unknown format.
    """
    if format == "csv":
        values = curve_values(comparison)
        return tables.render(tuple(values[0]), [tuple(row.values()) for row in values], "csv")
    return tables.with_caption(curves_table(comparison), format)


def _curve(run: Run) -> SparsityCurve:
    curve = run.record.sparsity_curve
    if curve is not None and curve.series:
        return curve
    if run.job != "sparse":
        raise InputError(
            f"--table=curve puts curves of sparse runs side by side, and {run.label} is a "
            f"{run.job} run; give one workdir for the curve of that"
        )
    raise InputError(f"the run in {run.label} has no curve; see its key curve_windows")


def _labels(groups: Sequence[Sequence[Run]]) -> list[str]:
    """What tells groups apart: nothing for one, else what they prune by, else their names."""
    if len(groups) == 1:
        return [""]
    curves = [_curve(group[0]) for group in groups]
    one_pattern = len({curve.pattern for curve in curves}) == 1
    words = [curve.criterion if one_pattern else curve.pruner for curve in curves]
    return words if len(set(words)) == len(words) else group_names(groups)


def _columns(label: str, group: Sequence[Run]) -> list[CurveColumn]:
    first = _curve(group[0])
    found = []
    for allocation in dict.fromkeys(one.allocation for run in group for one in _curve(run).series):
        points = [_points(_curve(run), allocation) for run in group]
        shared = [t for t in points[0] if all(t in one for one in points)]
        ppl = {t: Spread.of([one[t][0] for one in points]) for t in shared}
        achieved = {t: Spread.of([one[t][1] for one in points]) for t in shared}
        found.append(
            CurveColumn(
                name=f"{label} {allocation}".strip(),
                runs=tuple(group),
                criterion=first.criterion,
                pattern=first.pattern,
                allocation=allocation,
                ppl={t: spread for t, spread in ppl.items() if spread},
                achieved={t: spread for t, spread in achieved.items() if spread},
            )
        )
    return [column for column in found if column.ppl]


def _points(
    curve: SparsityCurve, allocation: str
) -> dict[float, tuple[float | None, float | None]]:
    """PPL and achieved sparsity by target; nothing for an allocation that the curve lacks."""
    for one in curve.series:
        if one.allocation == allocation:
            return dict(zip(one.sparsity, zip(one.ppl, one.achieved, strict=True), strict=True))
    return {}


def _differs(group: Sequence[Run]) -> bool:
    def measured(one: SparsitySeries) -> frozenset[tuple[str, float]]:
        points = zip(one.sparsity, one.ppl, strict=True)
        return frozenset((one.allocation, t) for t, ppl in points if ppl is not None)

    found = [frozenset().union(*map(measured, _curve(run).series)) for run in group]
    return any(points != found[0] for points in found)


def _mean(spread: Spread | None) -> float | None:
    return spread.mean if spread else None
