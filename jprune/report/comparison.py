"""Runs side by side: mean and spread over seeds, and what is left of a reference's perplexity."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jprune.core.errors import InputError
from jprune.report.comparable import Run, check_comparable, read_runs
from jprune.report.reading import Evaluation
from jprune.report.retraining import recovered
from jprune.report.spread import Spread

BEFORE = "before"

# Keys that change how a run goes, but none of the figures that are compared.
_FREE_KEYS = ("model", "mesh", "compare", "offload")
_FREE_PREFIX = "curve_"


@dataclass(frozen=True)
class Figure:
    """Perplexity on one data source.

    Attributes:
      before: of the unpruned model.
      after: of the pruned one.
      nll: the mean negative log-likelihood behind `after`, in nats per token.
      standard_error: of that over windows, the mean of the runs': each reads the same windows.
      retained: percentage of the reference, 100 * PPL(reference) / PPL, of the retrained model
        where there is one.
      retrained: of the pruned one once it was trained again.
      recovered: percentage of the rise in NLL that this made good; see `retraining.recovered`.
    """

    before: Spread | None
    after: Spread
    nll: Spread | None
    standard_error: Spread | None
    retained: Spread | None
    retrained: Spread | None = None
    recovered: Spread | None = None


@dataclass(frozen=True)
class Row:
    """One run, or several that differ in nothing but their seed.

    Attributes:
      runs: as read.
      figures: by data source.
      ratio: parameters of the pruned model over those of the unpruned one; zeros are parameters.
      sparsity: achieved; None where runs did not make weights sparse.
    """

    runs: tuple[Run, ...]
    figures: Mapping[str, Figure]
    parameters_before: Spread | None
    parameters: Spread | None
    ratio: Spread | None
    sparsity: Spread | None


@dataclass(frozen=True)
class Comparison:
    """What `compare` gives and `comparison_tables` renders.

    Attributes:
      rows: in the order in which the workdirs were given.
      protocols: of each data source that all runs were evaluated on; the same for all of them.
      left_out: data sources that only some of the runs were evaluated on.
      reference: what 100% is: "before", or a workdir.
      models: SHA-256 of every model that was pruned, that of the reference among them.
    """

    rows: tuple[Row, ...]
    protocols: Mapping[str, Mapping[str, Any]]
    left_out: tuple[str, ...]
    reference: str
    models: frozenset[str | None]


def compare(workdirs: Sequence[Any], reference: str = BEFORE, per_run: bool = False) -> Comparison:
    """Compares finished runs.

    Args:
      workdirs: folders that `jprune run` wrote.
      reference: what the retained percentage is of: "before" for each run's unpruned model, or a
        workdir, one of these or another.
      per_run: give each run a row of its own, also those that differ only in their seed.

    Raises:
      InputError: a folder that is no workdir, or given twice; a run that is not finished; runs of
        kinds that do not compare, without data in common, or with different protocols.
    """
    runs = read_runs(workdirs)
    named = None if str(reference) == BEFORE else _named(reference, runs)
    every = runs if named is None or named in runs else [*runs, named]
    data, left_out = check_comparable(every)
    groups = [[run] for run in runs] if per_run else seed_groups(runs)
    return Comparison(
        rows=tuple(_row(group, data, named) for group in groups),
        protocols={name: runs[0].after[name].protocol for name in data},
        left_out=left_out,
        reference=named.label if named else BEFORE,
        models=frozenset(run.record.model.get("sha256") for run in every),
    )


def _named(reference: Any, runs: Sequence[Run]) -> Run:
    """The run of a reference, as it is among `runs` if it is."""
    (found,) = read_runs([reference])
    return next((run for run in runs if run.folder == found.folder), found)


def seed_groups(runs: Sequence[Run]) -> list[list[Run]]:
    """Runs that differ only in their seed together, in the order of the first of each.

    Raises:
      InputError: two of them have the same seed.
    """
    groups: list[tuple[Any, list[Run]]] = []
    for run in runs:
        key = _method(run)
        group = next((members for known, members in groups if known == key), None)
        if group is None:
            groups.append((key, [run]))
            continue
        twin = next((member for member in group if member.seed == run.seed), None)
        if twin is not None:
            raise InputError(
                f"{twin.label} and {run.label} are the same run with the same seed ({run.seed}), "
                "which would count twice in the mean over seeds: leave one out, or give --per_run"
            )
        group.append(run)
    return [members for _, members in groups]


def _method(run: Run) -> Any:
    """What a run is, apart from its seed; a run without a config or a seed is like no other."""
    config = run.record.config.get("config")
    if not isinstance(config, Mapping) or run.seed is None:
        return run.folder
    asked = {key: value for key, value in config.items() if key != "seed" and not is_free(key)}
    return run.record.model.get("sha256"), asked


def is_free(key: str) -> bool:
    """Whether a key of a config changes none of the figures that are compared."""
    return key in _FREE_KEYS or key.startswith(_FREE_PREFIX)


def _row(group: Sequence[Run], data: Sequence[str], reference: Run | None) -> Row:
    pairs = [run.record.pair("parameters") for run in group]
    return Row(
        runs=tuple(group),
        figures={name: _figure(group, name, reference) for name in data},
        parameters_before=Spread.of([old for old, _ in pairs]),
        parameters=Spread.of([new for _, new in pairs]),
        ratio=Spread.of([new / old if old and new is not None else None for old, new in pairs]),
        sparsity=Spread.of(
            [run.record.sparse.achieved if run.record.sparse else None for run in group]
        ),
    )


def _figure(group: Sequence[Run], data: str, reference: Run | None) -> Figure:
    def spread(value: Callable[[Evaluation], float | None], when: str = "after") -> Spread | None:
        found = [getattr(run, when).get(data) for run in group]
        return Spread.of([value(one) if one else None for one in found])

    after = spread(lambda one: one.ppl)
    assert after is not None  # read_runs refuses a run without
    return Figure(
        before=spread(lambda one: one.ppl, BEFORE),
        after=after,
        nll=spread(lambda one: one.nll),
        standard_error=spread(lambda one: one.standard_error),
        retained=Spread.of([_retained(run, data, reference) for run in group]),
        retrained=spread(lambda one: one.ppl, "retrained"),
        recovered=Spread.of([_recovered(run, data) for run in group]),
    )


def _retained(run: Run, data: str, reference: Run | None) -> float | None:
    """100 * PPL(reference) / PPL, in percent."""
    best = reference.final(data) if reference else run.before.get(data)
    ppl = run.final(data).ppl
    if best is None or best.ppl is None or not ppl:
        return None
    return 100 * best.ppl / ppl


def _recovered(run: Run, data: str) -> float | None:
    share = recovered(*(phase.get(data) for phase in (run.before, run.after, run.retrained)))
    return None if share is None else 100 * share
