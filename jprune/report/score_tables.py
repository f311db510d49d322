"""Scores as tables and sentences: ranks, what lies inside the noise, windows, greedy paths."""

from collections.abc import Mapping
from typing import Any

from jprune.report import noise, tables
from jprune.report.reading import PART_NAMES, ScoreFile, UnitKey
from jprune.report.tables import Cell, Table


def score_name(scores: ScoreFile) -> str:
    """The heading of a column of scores."""
    name = f"{scores.criterion} score"
    return name[:1].upper() + name[1:]


def score_table(scores: ScoreFile, removed: frozenset[UnitKey]) -> Table:
    """Every unit in rank order, then those without a rank; ranks inside the noise as a span."""
    spans = {}
    for first, last in noise.tied_ranks(noise.neighbour_gaps(scores)):
        spans.update(dict.fromkeys(range(first, last + 1), f"{first}–{last}"))
    ranked = list(scores.order)
    seen = set(ranked)
    positions = ranked + [i for i in range(len(scores.units)) if i not in seen]
    nothing = (None,) * len(scores.units)
    delta, error = scores.delta_nll or nothing, scores.standard_error or nothing
    rows: list[tuple[Cell, ...]] = []
    marked = set()
    for i in positions:
        rank = ranked.index(i) + 1 if i in seen else None
        gone = scores.is_removed(i, removed)
        if gone:
            marked.add(len(rows))
        layer, part = scores.units[i]
        state = "removed" if gone else "protected" if i in scores.protected else "kept"
        row: list[Cell] = [rank, layer, PART_NAMES[part], scores.scores[i]]
        if scores.delta_nll:
            row.append(tables.plus_minus(delta[i], error[i], sign=True))
        if spans:
            row.append(spans.get(rank or 0))
        rows.append((*row, state))
    columns = ["Rank", "Index", "Part", score_name(scores)]
    if scores.delta_nll:
        columns.append("ΔNLL ± standard error" if scores.standard_error else "ΔNLL")
    columns += ["Ranks inside the noise"] * bool(spans) + ["State"]
    return Table(tuple(columns), rows, marked=frozenset(marked))


def window_table(scores: ScoreFile) -> Table:
    """Every window of contiguous blocks with its angular distance, the least distant first."""
    windows = sorted(
        (v, start) for start, v in enumerate(scores.window_scores or ()) if v is not None
    )
    n = scores.n or 1
    rows = [
        (rank, f"{start}–{start + n - 1}", value)
        for rank, (value, start) in enumerate(windows, start=1)
    ]
    return Table(("Rank", "Blocks", "Angle / π"), rows)


def path_table(scores: ScoreFile) -> Table:
    """The steps of a greedy removal: what was removed and the figures after it."""
    steps = [s if isinstance(s, Mapping) else {"position": s} for s in scores.path]
    numbers = [k for k in dict.fromkeys(k for s in steps for k in s) if k not in _STEP_KEYS]
    rows = [
        (i, _step_unit(scores, s), *(_plain_cell(s.get(k)) for k in numbers))
        for i, s in enumerate(steps, start=1)
    ]
    return Table(("Step", "Removed", *(k.replace("_", " ") for k in numbers)), rows)


_STEP_KEYS = ("position", "unit", "layer", "part", "step")


def _step_unit(scores: ScoreFile, step: Mapping[str, Any]) -> str:
    unit = step.get("unit", step.get("position", step))
    if isinstance(unit, int) and 0 <= unit < len(scores.units):
        return unit_name(scores.units[unit])
    if isinstance(unit, Mapping) and "layer" in unit:
        return f"{PART_NAMES.get(unit.get('part', 'block'), unit.get('part'))} {unit['layer']}"
    return str(unit)


def _plain_cell(value: Any) -> Cell:
    return value if value is None or isinstance(value, str | int | float) else str(value)


def noise_notes(scores: ScoreFile, removed: frozenset[UnitKey]) -> list[str]:
    """Sentences on which ranks the calibration data cannot tell apart, and on the cut.

    The cut is spoken of where `removed` is what these scores would remove.
    """
    gaps = noise.neighbour_gaps(scores)
    if not gaps:
        return []
    inside = [g for g in gaps if g.in_noise]
    how = (
        "paired over the same windows"
        if all(g.paired for g in gaps)
        else "from both units' standard errors, taken as independent"
    )
    spans = ", ".join(f"{a}–{b}" for a, b in noise.tied_ranks(gaps))
    if not inside:
        notes = [f"All {len(gaps)} steps between neighbouring ranks are larger than their standard "
                 f"error ({how})."]  # fmt: skip
    else:
        notes = [
            f"Inside the noise: ranks {spans}. For {len(inside)} of {len(gaps)} pairs of "
            "neighbouring ranks the difference in NLL is smaller than its standard error "
            f"({how}): other calibration windows could order them differently."
        ]
    lowest = {scores.units[i] for i in scores.order[: len(removed)]}
    cut = next((g for g in gaps if g.rank == len(removed) and lowest == removed), None)
    if cut is not None:
        last, first = (scores.units[scores.order[cut.rank - k]] for k in (1, 0))
        between = (
            f"between rank {cut.rank} ({unit_name(last)}) "
            f"and rank {cut.rank + 1} ({unit_name(first)})"
        )
        size = tables.plus_minus(cut.difference, cut.standard_error)
        notes.append(
            f"The cut {between} is {'inside' if cut.in_noise else 'outside'} the noise: "
            f"the difference is {size} nats/token."
        )
    return notes


def unit_name(unit: UnitKey) -> str:
    """A unit in words, for example: attention 3."""
    return f"{PART_NAMES[unit[1]]} {unit[0]}"
