"""What run.json says of a search: the result, the front, the curves, what it is compared with."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jprune.core.errors import InputError
from jprune.report import fields
from jprune.report.fields import Numbers

DEPTH, REMOVAL, MERGE = "depth", "removal", "merge-depth"
Removed = tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class LayerMix:
    """A kept layer that is not the base's own.

    Attributes:
      layer: which, of the base.
      variants: numbers of the variants from 0: one, taken as it is, or several that are merged.
      factor: of the merge: the base plus `factor` times the sum of the variants' differences to it.
    """

    layer: int
    variants: tuple[int, ...]
    factor: float | None


@dataclass(frozen=True)
class SearchCurve:
    """The best score so far after so many trials; None before any was evaluated on everything."""

    trials: tuple[int, ...]
    score: Numbers


@dataclass(frozen=True)
class FrontPoint:
    """A trial that no other is better than in one objective and as good in all.

    Attributes:
      number: of the trial.
      values: its NLL on each objective.
      score: its mean ratio to the base.
    """

    number: int
    values: tuple[float, ...]
    score: float


@dataclass(frozen=True)
class Compared:
    """A model of the result's size that was made in a simpler way.

    Attributes:
      phase: under which run.json has its figures.
      kind: "depth" and "removal" for the ways that each model is pruned in, else the phase.
      model: which was pruned; None where it is not one of the run's.
      removed: units that are gone.
      merge: the method that merged the variants before, if one did.
      score: of a search: the lowest mean ratio to the base.
      curve: of a search.
    """

    phase: str
    kind: str
    model: str | None
    removed: Removed
    merge: str | None
    score: float | None
    curve: SearchCurve | None


@dataclass(frozen=True)
class Search:
    """run.json's "search", "variants" and "comparisons".

    Attributes:
      base_name: of the base.
      variants: names of the variants; their figures have these as phases.
      removed: units that are gone from the result.
      mixes: its kept layers that are not the base's own.
      objectives: data sources whose NLL was lowered.
      base: the base's NLL on each, on the windows that were searched on.
      values: the result's.
      score: the mean over the objectives of values / base.
      trials: how many there are in each state: complete, pruned (ended early), failed, lost.
      front: of the complete trials.
      curve: the best score so far.
      comparisons: in the order of the run.
    """

    base_name: str
    variants: tuple[str, ...]
    removed: Removed
    mixes: tuple[LayerMix, ...]
    objectives: tuple[str, ...]
    base: tuple[float, ...]
    values: tuple[float, ...]
    score: float
    trials: Mapping[str, int]
    front: tuple[FrontPoint, ...]
    curve: SearchCurve
    comparisons: tuple[Compared, ...]

    @property
    def num_trials(self) -> int:
        """How many trials there were in all."""
        return sum(self.trials.values())

    @property
    def removal_curves(self) -> tuple[Compared, ...]:
        """The searches that only remove, the best first: that with the lowest score at the end."""
        found = [one for one in self.comparisons if one.kind == REMOVAL and one.curve]
        return tuple(sorted(found, key=lambda one: (one.score is None, one.score or 0.0)))


def parse_search(run: Mapping[str, Any], source: Any = "run.json") -> Search | None:
    """The search of a run's JSON; None where there is none, or none that is finished.

    Raises:
      InputError: a field is missing, or not what it should be.
    """
    found = fields.mapping(run.get("search"))
    if not found:
        return None
    where = f"{source}: search"
    objectives = tuple(map(str, fields.sequence(found, "objectives", where)))
    values = {key: fields.number_list(found, key, where) for key in ("base", "values")}
    fields.same_length({"objectives": objectives, **values}, where)
    variants = tuple(
        fields.text(one, "name", f"{source}: variants")
        for one in fields.mappings(run.get("variants"))
    )
    base = str(fields.mapping(run.get("model")).get("name") or "base")
    candidate = fields.inner_object(found, "candidate", where)
    mixes = tuple(
        _mix(one, len(variants), where) for one in fields.mappings(candidate.get("mixes"))
    )
    compared = fields.mapping(run.get("comparisons"))
    trials = fields.number_map(found, "trials", where)
    return Search(
        base_name=base,
        variants=variants,
        removed=_removed(candidate, where),
        mixes=mixes,
        objectives=objectives,
        **values,
        score=float(fields.number(found, "score", where)),
        trials={state: int(count) for state, count in trials.items()},
        front=tuple(
            _front_point(one, objectives, f"{where}: front")
            for one in fields.mappings(found.get("front"))
        ),
        curve=_curve(found, where),
        comparisons=tuple(
            _compared(phase, one, (base, *variants), f"{source}: comparisons: {phase}")
            for phase, one in compared.items()
            if isinstance(one, Mapping)
        ),
    )


def _mix(one: Mapping[str, Any], num_variants: int, source: str) -> LayerMix:
    variants = fields.integer_list(one, "variants", source)
    if not variants or not all(0 <= number < num_variants for number in variants):
        raise InputError(
            f"{source}: layer {one.get('layer')} is of variants {list(variants)}, but the run has "
            f"{num_variants} of them"
        )
    factor = None if one.get("factor") is None else float(fields.number(one, "factor", source))
    return LayerMix(fields.integer(one, "layer", source), variants, factor)


def _removed(candidate: Mapping[str, Any], source: str) -> Removed:
    units = fields.mappings(candidate.get("removed"))
    return tuple(
        (fields.integer(u, "layer", source), fields.text(u, "part", source)) for u in units
    )


def _front_point(one: Mapping[str, Any], objectives: tuple[str, ...], source: str) -> FrontPoint:
    values = fields.number_list(one, "values", source)
    fields.same_length({"objectives": objectives, "values": values}, source)
    number, score = fields.integer(one, "number", source), fields.number(one, "score", source)
    return FrontPoint(number, values, float(score))


def _curve(data: Mapping[str, Any], source: str) -> SearchCurve:
    points = fields.mappings(data.get("curve"))
    return SearchCurve(
        tuple(fields.integer(point, "trials", f"{source}: curve") for point in points),
        fields.optional_numbers([point.get("score") for point in points], f"{source}: curve"),
    )


def _compared(phase: str, one: Mapping[str, Any], models: tuple[str, ...], source: str) -> Compared:
    kind, _, model = phase.partition("-")
    known = kind in (DEPTH, REMOVAL) and model in models
    merge = fields.mapping(one.get("merge"))
    score = one.get("score")
    return Compared(
        phase=phase,
        kind=kind if known else phase,
        model=model if known else None,
        removed=_removed(fields.mapping(one.get("candidate")), source),
        merge=_merge_text(merge) if merge else None,
        score=None if score is None else float(fields.number(one, "score", source)),
        curve=_curve(one, source) if one.get("curve") else None,
    )


def _merge_text(merge: Mapping[str, Any]) -> str:
    """A method with its options, for example: ties, density 0.2, factor 1."""
    options = fields.mapping(merge.get("options"))
    words = [f"{key} {value:g}" for key, value in options.items() if isinstance(value, int | float)]
    return ", ".join([str(merge.get("method", "merge")), *words])
