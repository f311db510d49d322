"""What a workdir's JSON files say, read once and checked: the input of every part of a report."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from jprune.core.errors import InputError
from jprune.core.files import as_path, read_json
from jprune.report.fields import Numbers, mapping, mappings, optional_numbers
from jprune.report.losses import LOSSES, read_losses
from jprune.report.searches import Search, parse_search
from jprune.report.sparsity import (
    Allocation,
    Sparsity,
    SparsityCurve,
    Statistics,
    parse_allocation,
    parse_sparsity,
    parse_sparsity_curve,
    parse_statistics,
)

UnitKey = tuple[int, str]
PART_NAMES = {"block": "block", "attention": "attention", "mlp": "MLP"}
BASELINES = ("random", "last")
_FIRST, _LAST = "before", "after"
# States of the model in order; others are between the first two.
_ORDER = {_FIRST: 0, _LAST: 2, "retrained": 3}
# Files beside the scores that say what the rates of sparsity come from.
_RATES: Mapping[str, Callable[..., Any]] = dict(
    statistics=parse_statistics, allocation=parse_allocation
)


@dataclass(frozen=True)
class ScoreFile:
    """One `scores/NAME.json`. Lists run over `units`; None where nothing was measured.

    `order` and `protected` are positions in `units` (the file itself names protected layers).
    `settings` holds the calibration data and the options. `window_nll` [units][windows], where
    the file has it, gives differences between units that are paired over windows.
    """

    name: str
    criterion: str
    granularity: str
    units: tuple[UnitKey, ...]
    scores: Numbers
    order: tuple[int, ...] = ()
    protected: frozenset[int] = frozenset()
    delta_nll: Numbers | None = None
    standard_error: Numbers | None = None
    window_scores: Numbers | None = None
    n: int | None = None
    path: tuple[Any, ...] = ()
    window_nll: tuple[Numbers | None, ...] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def values(self) -> Numbers:
        """What a chart shows: the differences in NLL where there are any, else the scores."""
        delta = self.delta_nll or ()
        return delta if any(d is not None for d in delta) else self.scores

    def is_removed(self, position: int, removed: frozenset[UnitKey]) -> bool:
        """Whether the unit, or the whole block that it belongs to, is among `removed`."""
        layer, part = self.units[position]
        return (layer, part) in removed or (layer, "block") in removed


@dataclass(frozen=True)
class Evaluation:
    """One perplexity figure. `phase` is a key of run.json's figures: before, after, ..."""

    phase: str
    data: str
    ppl: float | None
    nll: float | None
    standard_error: float | None
    tokens: int | None
    protocol: Mapping[str, Any]


@dataclass(frozen=True)
class RunRecord:
    """Everything a report shows of one workdir.

    `phases` are the states of the model that were evaluated: before first, then after (pruned),
    and retrained last. `figures` has the losses of a training run too.
    `evaluations` holds every perplexity figure, phase by phase. `sparsity` is as in the file,
    `sparse` what it says where its form is known. `search` is what a search found.
    """

    name: str
    config: Mapping[str, Any]
    stages: tuple[Mapping[str, Any], ...]
    figures: Mapping[str, Any]
    phases: tuple[str, ...]
    evaluations: tuple[Evaluation, ...]
    removed: tuple[UnitKey, ...]
    model: Mapping[str, Any]
    sparsity: Mapping[str, Any]
    sparse: Sparsity | None
    sparsity_curve: SparsityCurve | None
    statistics: Statistics | None
    allocation: Allocation | None
    search: Search | None
    scores: tuple[ScoreFile, ...]
    recipe: Mapping[str, Any] | None
    exported: bool

    @property
    def chosen(self) -> ScoreFile | None:
        """The scores that decided: the configured criterion's, else the first non-baseline's.

        None of a search, which goes by more than scores.
        """
        if self.search:
            return None
        for s in self.scores:
            if self.setting("criterion") in (s.name, s.criterion):
                return s
        for s in self.scores:
            if s.criterion not in BASELINES:
                return s
        return self.scores[0] if self.scores else None

    def setting(self, key: str) -> Any:
        """A key of the configuration (alone or under "config"), None where it has no such key."""
        return mapping(self.config.get("config", self.config)).get(key)

    def pair(self, key: str) -> tuple[Any, Any]:
        """`(before, after)` of one of the model's sizes: layers, parameters or bytes."""
        value = self.model.get(key)
        if isinstance(value, Mapping):
            return value.get(_FIRST), value.get(_LAST)
        if isinstance(value, list | tuple) and len(value) == 2:
            return value[0], value[1]
        return self.model.get(f"{key}_before", value), self.model.get(f"{key}_after", value)


def read_run(workdir) -> RunRecord:
    """Reads a workdir: run.json must be there, everything else may be missing.

    Raises:
      InputError: no such folder, no run.json in it, or a file that is not what it should be.
    """
    path = as_path(workdir)
    if not path.is_dir():
        raise InputError(
            f"no workdir at {workdir}: give the folder that a `jprune run --workdir=...` wrote"
        )
    if not (path / "run.json").exists():
        raise InputError(
            f"{workdir} has no run.json: it is not a workdir of `jprune run`, or its run was "
            "stopped before the first stage ended (repeat the run to continue it)"
        )
    run = _read_object(path / "run.json")
    figures, sparsity = mapping(run.get("figures")), mapping(run.get("sparsity"))
    losses = read_losses(path / LOSSES)
    figures = {**figures, "training": losses} if losses else figures
    curve = mapping(figures.get("sparsity_curve"))
    phases = _phases(figures)
    scores, rates = _read_scores(path / "scores")
    return RunRecord(
        name=path.name or str(workdir),
        config=_read_object(path / "config.json", optional=True) or {},
        stages=tuple(mappings(run.get("stages"))),
        figures=figures,
        phases=phases,
        evaluations=tuple(
            _evaluation(phase, entry, path / "run.json")
            for phase in phases
            for entry in mappings(figures[phase].get("perplexity"))
        ),
        removed=tuple(_unit(u, path / "run.json") for u in run.get("removed") or ()),
        model=mapping(run.get("model")),
        sparsity=sparsity,
        sparse=parse_sparsity(sparsity, f"{path / 'run.json'}: sparsity"),
        sparsity_curve=parse_sparsity_curve(curve, f"{path / 'run.json'}: sparsity_curve"),
        statistics=rates.get("statistics"),
        allocation=rates.get("allocation"),
        search=parse_search(run, path / "run.json"),
        scores=scores,
        recipe=_read_object(path / "recipe.json", optional=True),
        exported=(path / "model" / "config.json").exists(),
    )


def _read_scores(folder) -> tuple[tuple[ScoreFile, ...], dict[str, Any]]:
    """The files of scores, and by name those of `_RATES`."""
    scores, rates = [], {}
    for file in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        data = _read_object(file)
        if file.stem in _RATES and "criterion" not in data:
            rates[file.stem] = _RATES[file.stem](data, file)
        else:
            scores.append(parse_scores(file.stem, data, file))
    return tuple(scores), rates


def parse_scores(name: str, data: Mapping[str, Any], source: Any = "scores") -> ScoreFile:
    """One score JSON. Without `units`, the scores are those of blocks 0, 1, 2, ...

    Raises:
      InputError: a required key is missing or the lists differ in length.
    """
    for key in ("criterion", "scores"):
        if key not in data:
            raise InputError(f"{source} has no {key!r}: it is not the JSON of `jprune score`")
    scores = optional_numbers(data["scores"] or (), source)
    granularity = data.get("granularity", "block")
    part = granularity if granularity in ("attention", "mlp") else "block"
    units = tuple(_unit(u, source, part) for u in data.get("units") or range(len(scores)))
    if not scores:
        scores = (None,) * len(units)
    position = {u: i for i, u in enumerate(units)}
    for key in ("scores", "delta_nll", "standard_error", "window_nll"):
        values = data.get(key) or scores
        if len(values) != len(units):
            raise InputError(f"{source}: {len(values)} {key} for {len(units)} units")
    windows = data.get("window_nll")
    return ScoreFile(
        name=name,
        criterion=str(data["criterion"]),
        granularity=str(granularity),
        units=units,
        scores=scores,
        order=tuple(_positions(data.get("order") or (), position, len(units), source)),
        protected=frozenset(
            i
            for i, unit in enumerate(units)
            for p in data.get("protected") or ()
            if p in (unit[0], {"layer": unit[0], "part": unit[1]})
        ),
        delta_nll=optional_numbers(data.get("delta_nll"), source),
        standard_error=optional_numbers(data.get("standard_error"), source),
        window_nll=tuple(optional_numbers(w, source) for w in windows) if windows else None,
        window_scores=optional_numbers(data.get("window_scores"), source),
        n=data.get("n"),
        path=tuple(data.get("path") or ()),
        settings={**mapping(data.get("calibration")), **mapping(data.get("settings"))},
    )


def _positions(values, position: Mapping[UnitKey, int], num_units: int, source) -> list[int]:
    """Positions in the list of units of integers (positions already) or {"layer", "part"}."""
    result = []
    for value in values:
        index = position.get(_unit(value, source)) if isinstance(value, Mapping) else value
        if not isinstance(index, int) or not 0 <= index < num_units:
            raise InputError(f"{source}: {value!r} is none of the {num_units} units scored")
        result.append(index)
    return result


def _unit(value, source, part: str = "block") -> UnitKey:
    if isinstance(value, int):
        return value, part
    if isinstance(value, Mapping):
        layer, part = value.get("layer"), value.get("part", part)
        if isinstance(layer, int) and part in PART_NAMES:
            return layer, part
    raise InputError(
        f'{source}: {value!r} is not a unit like {{"layer": 3, "part": "block"}} '
        f"(parts: {', '.join(PART_NAMES)})"
    )


def _evaluation(phase: str, entry: Mapping[str, Any], source) -> Evaluation:
    protocol = mapping(entry.get("protocol"))
    keys = ("ppl", "nll", "standard_error")
    ppl, nll, error = optional_numbers([entry.get(k) for k in keys], source)
    return Evaluation(
        phase=phase,
        data=str(entry.get("data", protocol.get("data", ""))),
        ppl=ppl,
        nll=nll,
        standard_error=error,
        tokens=entry.get("tokens", protocol.get("tokens")),
        protocol=protocol,
    )


def _phases(figures: Mapping[str, Any]) -> tuple[str, ...]:
    measured = [
        name
        for name, value in figures.items()
        if any(mappings(mapping(value).get(key)) for key in ("perplexity", "tasks"))
    ]
    return tuple(sorted(measured, key=lambda name: _ORDER.get(name, 1)))


def _read_object(path, optional: bool = False) -> Any:
    if optional and not path.exists():
        return None
    value = read_json(path)
    if not isinstance(value, Mapping):
        raise InputError(f"{path} should hold a JSON object, not {type(value).__name__}")
    return value
