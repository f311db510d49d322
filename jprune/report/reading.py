"""What a workdir's JSON files say, read once and checked: the input of every part of a report."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from jprune.core.errors import InputError
from jprune.core.files import as_path, read_json

UnitKey = tuple[int, str]
Numbers = tuple[float | None, ...]
PART_NAMES = {"block": "block", "attention": "attention", "mlp": "MLP"}
BASELINES = ("random", "last")
_FIRST, _LAST = "before", "after"


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

    `phases` are the states of the model that were evaluated: before first, after last.
    `evaluations` holds every perplexity figure, phase by phase.
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
    scores: tuple[ScoreFile, ...]
    recipe: Mapping[str, Any] | None
    exported: bool

    @property
    def chosen(self) -> ScoreFile | None:
        """The scores that decided: the configured criterion's, else the first non-baseline's."""
        for s in self.scores:
            if self.setting("criterion") in (s.name, s.criterion):
                return s
        for s in self.scores:
            if s.criterion not in BASELINES:
                return s
        return self.scores[0] if self.scores else None

    def setting(self, key: str) -> Any:
        """A key of the configuration (alone or under "config"), None where it has no such key."""
        return _dict(self.config.get("config", self.config)).get(key)

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
    figures = _dict(run.get("figures"))
    phases = _phases(figures)
    scores_dir = path / "scores"
    files = sorted(scores_dir.glob("*.json")) if scores_dir.is_dir() else []
    return RunRecord(
        name=path.name or str(workdir),
        config=_read_object(path / "config.json", optional=True) or {},
        stages=tuple(_dicts(run.get("stages"))),
        figures=figures,
        phases=phases,
        evaluations=tuple(
            _evaluation(phase, entry, path / "run.json")
            for phase in phases
            for entry in _dicts(figures[phase].get("perplexity"))
        ),
        removed=tuple(_unit(u, path / "run.json") for u in run.get("removed") or ()),
        model=_dict(run.get("model")),
        sparsity=_dict(run.get("sparsity")),
        scores=tuple(parse_scores(f.stem, _read_object(f), f) for f in files),
        recipe=_read_object(path / "recipe.json", optional=True),
        exported=(path / "model" / "config.json").exists(),
    )


def parse_scores(name: str, data: Mapping[str, Any], source: Any = "scores") -> ScoreFile:
    """One score JSON. Without `units`, the scores are those of blocks 0, 1, 2, ...

    Raises:
      InputError: a required key is missing or the lists differ in length.
    """
    for key in ("criterion", "scores"):
        if key not in data:
            raise InputError(f"{source} has no {key!r}: it is not the JSON of `jprune score`")
    scores = _floats(data["scores"] or (), source)
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
        delta_nll=_floats(data.get("delta_nll"), source),
        standard_error=_floats(data.get("standard_error"), source),
        window_nll=tuple(_floats(w, source) for w in windows) if windows else None,
        window_scores=_floats(data.get("window_scores"), source),
        n=data.get("n"),
        path=tuple(data.get("path") or ()),
        settings={**_dict(data.get("calibration")), **_dict(data.get("settings"))},
    )


def _floats(values, source) -> Any:
    """A JSON list of numbers and nulls as floats and None; None stays None."""
    try:
        return None if values is None else tuple(None if v is None else float(v) for v in values)
    except (TypeError, ValueError):
        raise InputError(f"{source}: {values!r:.60} should be a list of numbers") from None


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
    protocol = _dict(entry.get("protocol"))
    keys = ("ppl", "nll", "standard_error")
    ppl, nll, error = _floats([entry.get(k) for k in keys], source)
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
        if any(_dicts(_dict(value).get(key)) for key in ("perplexity", "tasks"))
    ]
    return tuple(sorted(measured, key=lambda name: (name != _FIRST, name == _LAST)))


def _dict(value) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _dicts(value) -> list[Mapping[str, Any]]:
    return [v for v in value if isinstance(v, Mapping)] if isinstance(value, list) else []


def _read_object(path, optional: bool = False) -> Any:
    if optional and not path.exists():
        return None
    value = read_json(path)
    if not isinstance(value, Mapping):
        raise InputError(f"{path} should hold a JSON object, not {type(value).__name__}")
    return value
