"""What several searches came to in one table: mean and spread over seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jprune.core.errors import InputError
from jprune.report import tables
from jprune.report.comparable import Run, check_comparable, read_runs
from jprune.report.comparison import seed_groups
from jprune.report.names import group_names
from jprune.report.objective_tables import (
    ObjectiveRow,
    objective_rows,
    objective_values,
    objectives_table,
)
from jprune.report.tables import Table


@dataclass(frozen=True)
class ObjectiveComparison:
    """What `compare_objectives` gives.

    Attributes:
      rows: group by group, in the order in which the workdirs were given.
      protocols: of each data source that all runs were evaluated on.
      left_out: data sources that only some were evaluated on.
      models_left_out: whether some runs have models that others of their group lack.
      seeds: how many runs a row has at most.
    """

    rows: tuple[ObjectiveRow, ...]
    protocols: Mapping[str, Mapping[str, Any]]
    left_out: tuple[str, ...]
    models_left_out: bool
    seeds: int


def compare_objectives(workdirs: Sequence[Any], per_run: bool = False) -> ObjectiveComparison:
    """Puts the models of finished searches side by side.

    Args:
      workdirs: folders that `jprune run` or `jprune search` wrote; one will do.
      per_run: give each run rows of its own, also those that differ only in their seed.

    Raises:
      InputError: a folder that is no workdir, or given twice; a run that is not finished or no
        search; runs without data in common, or with different protocols.
    """
    runs = read_runs(workdirs)
    for run in runs:
        _check_search(run)
    data, left_out = check_comparable(runs)
    groups = [[run] for run in runs] if per_run else seed_groups(runs)
    records = [[run.record for run in group] for group in groups]
    names = group_names(groups)
    rows = [objective_rows(one, data, name) for one, name in zip(records, names, strict=True)]
    return ObjectiveComparison(
        rows=tuple(row for group in rows for row in group),
        protocols={name: runs[0].after[name].protocol for name in data},
        left_out=left_out,
        models_left_out=any(
            len(objective_rows([record], data)) > len(found)
            for group, found in zip(records, rows, strict=True)
            for record in group
        ),
        seeds=max(map(len, groups)),
    )


def comparison_table(comparison: ObjectiveComparison) -> Table:
    """A row per model and group of runs; rounded."""
    table = objectives_table(comparison.rows, comparison.protocols, comparison.seeds)
    lines = [table.caption]
    if comparison.models_left_out:
        lines.append("Models that only some of the seeds have are left out.")
    if comparison.left_out:
        lines.append(f"Not evaluated in all runs, left out: {', '.join(comparison.left_out)}.")
    return Table(table.columns, table.rows, "\n".join(lines))


def render_objectives(comparison: ObjectiveComparison, format: str = "text") -> str:
    """The table in one of `jprune.report.tables.FORMATS`; CSV has `objective_values`.

    Raises:
      InputError: for an unknown format.
    """
    if format == "csv":
        values = objective_values(comparison.rows)
        return tables.render(tuple(values[0]), [tuple(row.values()) for row in values], "csv")
    return tables.with_caption(comparison_table(comparison), format)


def _check_search(run: Run) -> None:
    if run.record.search is None:
        raise InputError(
            f"--table=objectives is of searches, and {run.label} is a {run.job} run; leave it out"
        )
