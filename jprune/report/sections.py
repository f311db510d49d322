"""What a report says, as headlines, tables and sentences; how it looks is decided elsewhere."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jprune.report import tables
from jprune.report.reading import PART_NAMES, Evaluation, RunRecord, UnitKey
from jprune.report.score_tables import score_name
from jprune.report.tables import Table

# What belongs to the data rather than to the way of measuring.
_DATA_KEYS = ("data", "split", "tokens")


@dataclass(frozen=True)
class Card:
    """One large figure of the headline."""

    name: str
    value: str
    detail: str = ""


@dataclass(frozen=True)
class Headline:
    """The top of the page: which model, which method, what came out."""

    title: str
    lead: str
    cards: tuple[Card, ...]


def headline(run: RunRecord) -> Headline:
    """Model, method, units removed, parameters, perplexity (with its protocol) and bytes."""
    cards = []
    if run.removed:
        cards.append(
            Card("Removed", removed_text(run), f"original indices {unit_list(run.removed)}")
        )
    card = _parameters_card(run)
    if card:
        cards.append(card)
    card = _perplexity_card(run)
    if card:
        cards.append(card)
    return Headline(
        title=str(run.model.get("name") or run.setting("model") or run.name),
        lead=method_text(run),
        cards=tuple(cards),
    )


def _parameters_card(run: RunRecord) -> Card | None:
    old, new = run.pair("parameters")
    if old is None and new is None:
        return None
    bytes_old, bytes_new = run.pair("bytes")
    known = bytes_old is not None and bytes_new is not None
    if old is None or new is None or old == new:
        detail = f"weights {tables.size(bytes_new)}" if known else ""
        return Card("Parameters", tables.count(old if new is None else new), detail)
    detail = tables.change(new, old)
    if known:
        detail += f"; weights {tables.size(bytes_old)} → {tables.size(bytes_new)}"
    return Card("Parameters", f"{tables.count(old)} → {tables.count(new)}", detail)


def perplexity_pair(run: RunRecord) -> tuple[Evaluation | None, Evaluation | None]:
    """The figure after everything on its first data source, and the same measurement before.

    `(None, x)` where nothing was measured in the same way before; `(None, None)` without figures.
    """
    evaluations = [e for e in run.evaluations if e.ppl is not None]
    if not evaluations:
        return None, None
    last = next(e for e in evaluations if e.phase == evaluations[-1].phase)
    same = (
        e
        for e in evaluations
        if e.phase != last.phase and e.data == last.data and e.protocol == last.protocol
    )
    return next(same, None), last


def _perplexity_card(run: RunRecord) -> Card | None:
    first, last = perplexity_pair(run)
    if last is None:
        return None
    detail = f"{last.data}; {protocol_text(last.protocol)}".strip("; ")
    if first is None:
        return Card("Perplexity", tables.ppl(last.ppl), detail)
    return Card("Perplexity", f"{tables.ppl(first.ppl)} → {tables.ppl(last.ppl)}", detail)


def summary_table(run: RunRecord) -> Table:
    """The run in one row; the caption has the protocol of its perplexities."""
    first, last = perplexity_pair(run)
    old, new = run.pair("parameters")
    criterion = run.chosen.criterion if run.chosen and run.removed else None
    columns = ("Run", "Criterion", "Removed", "Parameters", "Left", "PPL before", "PPL after")
    row = (
        run.name, criterion, removed_text(run) if run.removed else None, tables.count(new),
        f"{100 * new / old:.1f}%" if old and new is not None else None,
        tables.ppl(first.ppl if first else None), tables.ppl(last.ppl if last else None),
    )  # fmt: skip
    caption = f"PPL: {last.data}; {protocol_text(last.protocol)}" if last else ""
    return Table(columns, [row], caption)


def method_text(run: RunRecord) -> str:
    """One line that names the method, for example: Depth pruning, perplexity score."""
    words = []
    if run.removed:
        words.append("depth pruning")
    if run.sparsity:
        words.append("sparsity")
    if run.chosen and run.removed:
        words.append(f"{run.chosen.criterion} score")
        words.append(f"granularity {run.chosen.granularity}")
    if not words and isinstance(run.figures.get("training"), Mapping):
        words.append("training")
    recipe = run.recipe or {}
    ops = [str(s.get("op")) for s in recipe.get("steps") or () if isinstance(s, Mapping)]
    if ops:
        words.append(f"recipe {' → '.join(ops)}")
    text = ", ".join(words) or "run"
    text = text[:1].upper() + text[1:]
    name, digest = run.config.get("name"), run.model.get("sha256")
    sentences = [
        f"{name}: {text}" if name else text,
        f"Model sha256 {str(digest)[:12]}" if digest else "",
    ]
    return " ".join(f"{sentence}." for sentence in sentences if sentence)


def removed_text(run: RunRecord) -> str:
    """How much is gone, for example: 4 of 20 blocks; 3 attention, 2 MLP of 20 layers."""
    layers = run.pair("layers")[0]
    counts = {p: sum(part == p for _, part in run.removed) for p in PART_NAMES}
    if counts["block"] == len(run.removed):
        noun = "block" if (layers or counts["block"]) == 1 else "blocks"
        total = f" of {layers}" if layers else ""
        return f"{counts['block']}{total} {noun}"
    text = ", ".join(f"{n} {PART_NAMES[p]}" for p, n in counts.items() if n)
    return f"{text} of {layers} layers" if layers else text


def unit_list(units: Iterable[UnitKey]) -> str:
    """Units in words: 5, 15 for blocks; attention 3, 7; MLP 4 otherwise."""
    by_part = {p: sorted(layer for layer, part in units if part == p) for p in PART_NAMES}
    present = {p: layers for p, layers in by_part.items() if layers}
    texts = {p: ", ".join(map(str, layers)) for p, layers in present.items()}
    if set(texts) == {"block"}:
        return texts["block"]
    return "; ".join(f"{PART_NAMES[p]} {text}" for p, text in texts.items())


def protocol_text(protocol: Mapping[str, Any]) -> str:
    """A protocol in words, every field of it except the data's own."""
    known: dict[str, Callable[[Any], str]] = {
        "num_windows": lambda v: f"{v} windows",
        "window_length": lambda v: f"of {v} tokens",
        "join": lambda v: f"joined with {v!r}",
        "bos": lambda v: f"BOS {v}",
        "dtype": str,
        "normaliser": lambda v: f"per {v}",
    }
    words = [form(protocol[k]) for k, form in known.items() if protocol.get(k) is not None]
    words += [
        f"{k} {v}" for k, v in protocol.items()
        if k not in known and k not in _DATA_KEYS and v is not None
    ]  # fmt: skip
    return ", ".join(words).replace(" windows, of ", " windows of ")


def removed_table(run: RunRecord) -> Table:
    """Original index and part of each removed unit, with its score and rank where known."""
    chosen = run.chosen
    where = {u: i for i, u in enumerate(chosen.units)} if chosen else {}
    ranks = {i: r for r, i in enumerate(chosen.order, start=1)} if chosen else {}
    rows = []
    for layer, part in run.removed:
        position = where.get((layer, part), -1)
        score = chosen.scores[position] if chosen and position >= 0 else None
        rows.append((layer, PART_NAMES[part], score, ranks.get(position)))
    columns = ("Original index", "Part", score_name(chosen) if chosen else "Score", "Rank")
    if all(row[2] is None and row[3] is None for row in rows):
        return Table(columns[:2], [row[:2] for row in rows])
    return Table(columns, rows)


def evaluation_tables(run: RunRecord) -> list[Table]:
    """Perplexity, one table for each protocol."""
    groups: list[tuple[dict[str, Any], list[Evaluation]]] = []
    for e in run.evaluations:
        key = {k: v for k, v in e.protocol.items() if k not in _DATA_KEYS}
        group = next((g for k, g in groups if k == key), None)
        if group is None:
            groups.append((key, [e]))
        else:
            group.append(e)
    result = []
    for key, group in groups:
        reference = {e.data: e.ppl for e in reversed(group)}
        rows = [
            (
                e.data, e.phase, tables.ppl(e.ppl),
                tables.ratio(e.ppl, reference[e.data]) if e.phase != group[0].phase else None,
                tables.plus_minus(e.nll, e.standard_error), e.tokens,
            )
            for e in sorted(group, key=lambda e: list(reference)[::-1].index(e.data))
        ]  # fmt: skip
        columns = ("Data", "Model", "PPL", "Ratio", "NLL ± standard error", "Tokens")
        if all(row[3] is None for row in rows):
            columns, rows = _without(columns, 3), [_without(row, 3) for row in rows]
        caption = f"Perplexity: {protocol_text(key) or 'no protocol recorded'}."
        result.append(Table(columns, rows, caption))
    return result


def _without(values: tuple, position: int) -> tuple:
    return values[:position] + values[position + 1 :]


def task_table(run: RunRecord) -> Table:
    """Multiple-choice tasks: one row per task, metric and state of the model."""
    rows = [
        (
            t.get("task"),
            t.get("metric"),
            phase,
            _percent(t.get("value"), t.get("stderr")),
            t.get("n"),
        )
        for phase in run.phases
        for t in run.figures[phase].get("tasks") or ()
        if isinstance(t, Mapping)
    ]
    rows.sort(key=lambda row: (str(row[0]), str(row[1])))
    return Table(("Task", "Metric", "Model", "Value (%)", "Questions"), rows, "Zero-shot tasks.")


def _percent(value, stderr) -> str:
    scale = 100.0
    return tables.plus_minus(
        None if value is None else scale * value, None if stderr is None else scale * stderr, 2
    )


def curve_table(curve: Mapping[str, Any]) -> Table:
    """Perplexity by number of removed units, a column per criterion."""
    series = [s for s in curve.get("series") or () if isinstance(s, Mapping)]
    numbers = sorted({n for s in series for n in s.get("removed") or ()})
    columns = [dict(zip(s.get("removed") or (), s.get("ppl") or (), strict=False)) for s in series]
    rows = [(n, *(tables.ppl(column.get(n)) for column in columns)) for n in numbers]
    protocol = protocol_text(curve.get("protocol") or {})
    caption = f"PPL: {curve.get('data') or 'unknown data'}; {protocol}" if protocol else ""
    return Table(("Removed", *(str(s.get("criterion")) for s in series)), rows, caption)


def sizes_table(run: RunRecord) -> Table:
    """Layers, parameters and bytes before and after."""
    rows = []
    for key, name in (("layers", "Layers"), ("parameters", "Parameters"), ("bytes", "Bytes")):
        old, new = run.pair(key)
        if old is None and new is None:
            continue
        exact = [tables.MISSING if v is None else f"{v:,}" for v in (old, new)]
        rows.append((name, *exact, tables.change(new, old)))
    return Table(("", "Before", "After", "Change"), rows)


def stages_table(run: RunRecord) -> Table:
    """The stages of the run and how long each took when it was computed.

    The stage that writes this page is left out, and so is the difference between done and cached:
    the page then stays the same, byte for byte, when it is rebuilt after the run.
    """
    stages = [s for s in run.stages if s.get("name") != "report" and s.get("status") != "running"]
    rows = [
        (str(s.get("name")), tables.duration(s.get("seconds")), str(s.get("status")))
        for s in stages
    ]
    if all(status in ("done", "cached") for _, _, status in rows):
        return Table(("Stage", "Time"), [row[:2] for row in rows])
    return Table(("Stage", "Time", "Status"), rows)
