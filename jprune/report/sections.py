"""What a report says first: the headline, the run in one row, and its parts in words."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jprune.report import tables
from jprune.report.fields import mapping
from jprune.report.names import brief_names
from jprune.report.objectives import BASE, RESULT, measured_models, perplexity, report_data
from jprune.report.reading import PART_NAMES, Evaluation, RunRecord, UnitKey
from jprune.report.search_words import search_method
from jprune.report.searches import Search
from jprune.report.sparse_words import settings_words, sparsity_text
from jprune.report.sparsity import Sparsity
from jprune.report.tables import Cell, Table

# What belongs to the data rather than to the way of measuring.
DATA_KEYS = ("data", "split", "tokens")


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
    """Model, method, units removed, sparsity, parameters, perplexity (with its protocol), bytes."""
    cards = []
    if run.removed:
        cards.append(
            Card("Removed", removed_text(run), f"original indices {unit_list(run.removed)}")
        )
    if run.sparse:
        cards.append(_sparsity_card(run.sparse))
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


def _sparsity_card(sparsity: Sparsity) -> Card:
    detail = f"target {tables.rate(sparsity.target)}; {settings_words(sparsity)}"
    return Card("Sparsity", tables.percent(sparsity.achieved), detail)


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


@dataclass(frozen=True)
class _Perplexity:
    """PPL before and after, and what it was measured on."""

    before: float | None
    after: float
    words: str


def _headline_perplexity(run: RunRecord) -> _Perplexity | None:
    """That on the first data source; of a search on several, exp of the mean NLL on them."""
    data = report_data(run)
    models = {m.key: m for m in measured_models(run, data) if not m.is_variant}
    if len(data) > 1 and RESULT in models:
        means = [perplexity(models[key].mean) if key in models else None for key in (BASE, RESULT)]
        protocols = {e.data: protocol_text(e.protocol) for e in run.evaluations}
        words = [
            f"exp of the mean NLL on {', '.join(brief_names(data).values())}",
            *dict.fromkeys(protocols[name] for name in data),
        ]
        return _Perplexity(
            means[0], perplexity(models[RESULT].mean), "; ".join(filter(None, words))
        )
    first, last = perplexity_pair(run)
    if last is None or last.ppl is None:
        return None
    words = f"{last.data}; {protocol_text(last.protocol)}"
    return _Perplexity(first.ppl if first else None, last.ppl, words)


def _perplexity_card(run: RunRecord) -> Card | None:
    found = _headline_perplexity(run)
    if found is None:
        return None
    value = tables.ppl(found.after)
    if found.before is not None:
        value = f"{tables.ppl(found.before)} → {value}"
    return Card("Perplexity", value, found.words.strip("; "))


def summary_table(run: RunRecord) -> Table:
    """The run in one row; the caption has the protocol of its perplexities."""
    found = _headline_perplexity(run)
    old, new = run.pair("parameters")
    method = _sparsity_cells(run, run.sparse) if run.sparse else _removal_cells(run)
    cells: dict[str, Cell] = {
        "Run": run.name,
        **(_search_cells(run, run.search) if run.search else method),
        "Parameters": tables.count(new),
        "Left": f"{100 * new / old:.1f}%" if old and new is not None else None,
        "PPL before": tables.ppl(found.before if found else None),
        "PPL after": tables.ppl(found.after if found else None),
    }
    return Table(tuple(cells), [tuple(cells.values())], f"PPL: {found.words}" if found else "")


def _search_cells(run: RunRecord, search: Search) -> dict[str, Cell]:
    return {
        "Search": run.setting("sampler"),
        "Trials": search.num_trials,
        **({"Variants": len(search.variants)} if search.variants else {}),
        "Removed": removed_text(run) if run.removed else None,
    }


def _removal_cells(run: RunRecord) -> dict[str, Cell]:
    return {
        "Criterion": run.chosen.criterion if run.chosen and run.removed else None,
        "Removed": removed_text(run) if run.removed else None,
    }


def _sparsity_cells(run: RunRecord, sparsity: Sparsity) -> dict[str, Cell]:
    return {
        "Criterion": sparsity.criterion,
        "Allocation": sparsity.allocation,
        **({"Pattern": sparsity.pattern} if sparsity.pattern else {}),
        "Target": tables.rate(sparsity.target),
        "Sparsity": tables.percent(sparsity.achieved),
        **({"Removed": removed_text(run)} if run.removed else {}),
    }


def method_text(run: RunRecord) -> str:
    """One line that names the method, for example: Depth pruning, perplexity score."""
    words = []
    if run.search:
        words.append(search_method(run))
    elif run.removed:
        words.append("depth pruning")
    if run.sparsity:
        words.append(sparsity_text(run.sparse) if run.sparse else "sparsity")
    if run.chosen and run.removed:
        words.append(f"{run.chosen.criterion} score")
        words.append(f"granularity {run.chosen.granularity}")
    kind = mapping(run.figures.get("retrain")).get("kind")
    if kind:
        words.append(f"retrained ({kind})")
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
        if k not in known and k not in DATA_KEYS and v is not None
    ]  # fmt: skip
    return ", ".join(words).replace(" windows, of ", " windows of ")


def settings_text(settings: Mapping[str, Any]) -> str:
    """Settings in words, those that are text or numbers; hashes are left out."""
    return ", ".join(
        f"{key} {tables.cell_text(value)}" for key, value in settings.items()
        if isinstance(value, str | int | float) and value != "" and "sha256" not in key
    )  # fmt: skip
