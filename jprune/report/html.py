"""One run as one HTML page: no scripts, no fonts, no links, nothing outside the file."""

import json
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from jprune.report import tables
from jprune.report.reading import BASELINES, PART_NAMES, RunRecord, ScoreFile
from jprune.report.score_tables import noise_notes, path_table, score_table, window_table
from jprune.report.sections import (
    curve_table,
    evaluation_tables,
    headline,
    protocol_text,
    removed_table,
    sizes_table,
    stages_table,
    task_table,
)
from jprune.report.style import CSS
from jprune.report.tables import Table

UNFINISHED = ("failed", "interrupted")


def page(run: RunRecord, figures: Mapping[str, str]) -> str:
    """The page of `run`. `figures` maps a name (curve, scores-NAME, windows-NAME, training) to
    SVG text made by `plots.svg`; what is not there is left out.
    """
    body = [
        _head(run),
        _curve(run, figures),
        _training(run, figures),
        _scores(run, figures),
        _section("What was removed", _table(removed_table(run))) if run.removed else "",
        _evaluation(run),
        _sparsity(run),
        _section("Sizes", _table(sizes_table(run))) if sizes_table(run).rows else "",
        _loading(run),
        _section("Stages", _table(stages_table(run))) if run.stages else "",
        _json("Recipe", run.recipe, "What `jprune apply` needs to make this model again."),
        _json("Configuration", run.config, ""),
    ]
    title, content = escape(headline(run).title), "\n".join(part for part in body if part)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}: jprune report</title>\n<style>{CSS}</style>\n</head>\n"
        f"<body>\n<main>\n{content}\n</main>\n</body>\n</html>\n"
    )


def _section(title: str, *parts: str) -> str:
    return f"<section>\n<h2>{escape(title)}</h2>\n{''.join(p for p in parts if p)}\n</section>"


def _paragraph(text: str, style: str = "") -> str:
    return f"<p{f' class={chr(34)}{style}{chr(34)}' if style else ''}>{escape(text)}</p>\n"


def _details(summary: str, content: str, opened: bool = False) -> str:
    mark = " open" if opened else ""
    return f"<details{mark}><summary>{escape(summary)}</summary>\n{content}</details>\n"


def _table(table: Table) -> str:
    right = tables.right_aligned(table.columns, table.rows)

    def row(cells: Sequence[tables.Cell], tag: str) -> str:
        return "".join(
            f"<{tag}{' class=right' if r else ''}>{escape(tables.cell_text(c))}</{tag}>"
            for c, r in zip(cells, right, strict=True)
        )

    lines = [
        f"<tr{' class=gone' if i in table.marked else ''}>{row(cells, 'td')}</tr>"
        for i, cells in enumerate(table.rows)
    ]
    caption = _paragraph(table.caption, "note") if table.caption else ""
    return (
        f'{caption}<div class="scroll"><table><thead><tr>{row(table.columns, "th")}</tr></thead>'
        f"<tbody>\n{chr(10).join(lines)}\n</tbody></table></div>\n"
    )


def _figure(svg: str | None, alt: str, caption: str = "") -> str:
    if not svg:
        return ""
    caption = f"<figcaption>{escape(caption)}</figcaption>" if caption else ""
    return f'<figure role="img" aria-label="{escape(alt)}">\n{svg}\n{caption}</figure>\n'


def _head(run: RunRecord) -> str:
    top = headline(run)
    unfinished = [s for s in run.stages if s.get("status") in UNFINISHED]
    warning = "".join(
        f'<p class="warn">Stage {escape(str(s.get("name")))}: {escape(str(s["status"]))}. '
        "What follows is what the run had when this page was written.</p>\n"
        for s in unfinished
    )
    cards = "".join(
        f'<div class="card"><div class="name">{escape(c.name)}</div>'
        f'<div class="value">{escape(c.value)}</div>'
        f'<div class="detail">{escape(c.detail)}</div></div>\n'
        for c in top.cards
    )
    grid = f'<div class="cards">\n{cards}</div>\n' if cards else ""
    lead = f'<p class="lead">{escape(top.lead)}</p>\n'
    return f"<header>\n<h1>{escape(top.title)}</h1>\n{lead}</header>\n{warning}{grid}{_map(run)}"


def _map(run: RunRecord) -> str:
    """A strip with one cell per block, or per sublayer where some were removed alone."""
    layers = run.pair("layers")[0]
    if not run.removed or not isinstance(layers, int) or not 0 < layers <= 400:
        return ""
    removed = set(run.removed)
    parts = ("block",) if all(p == "block" for _, p in removed) else ("attention", "mlp")
    strips = []
    for part in parts:
        cells = []
        for layer in range(layers):
            gone = bool({(layer, part), (layer, "block")} & removed)
            style = " ".join(
                s for s in (part if part == "mlp" else "", "gone" if gone else "") if s
            )
            tip = f"{PART_NAMES[part]} {layer}{': removed' if gone else ''}"
            cells.append(
                f'<span{f" class={chr(34)}{style}{chr(34)}" if style else ""} title="{tip}">'
                f"{'×' if gone else layer if layers <= 48 else ''}</span>"
            )
        strips.append(
            f'<div class="map" style="grid-template-columns: repeat({layers}, 1fr)">'
            f"{''.join(cells)}</div>\n"
        )
    what = "block" if parts == ("block",) else "attention sublayer (above) and MLP (below)"
    return "".join(strips) + _paragraph(
        f"Every {what} of the original model in order; × marks what was removed.", "note"
    )


def _curve(run: RunRecord, figures: Mapping[str, str]) -> str:
    curve = run.figures.get("curve")
    if not isinstance(curve, Mapping) or not curve.get("series"):
        return ""
    data = f"{curve['data']}. " if curve.get("data") else ""
    protocol = protocol_text(curve.get("protocol") or {})
    return _section(
        "Perplexity against units removed",
        _figure(
            figures.get("curve"),
            "Perplexity against the number of removed units, one line per criterion",
            f"{data}{protocol}" if data or protocol else "",
        ),
        _details("The figures", _table(curve_table(curve))),
    )


def _training(run: RunRecord, figures: Mapping[str, str]) -> str:
    if "training" not in figures:
        return ""
    return _section("Training", _figure(figures["training"], "Training loss over steps"))


def _one_score(run: RunRecord, scores: ScoreFile, figures: Mapping[str, str]) -> str:
    name = scores.name
    alt = f"{scores.criterion} score of every unit; removed units are marked with a cross"
    settings = ", ".join(
        f"{key} {tables.cell_text(value)}" for key, value in scores.settings.items()
        if isinstance(value, str | int | float) and value != "" and "sha256" not in key
    )  # fmt: skip
    scored = any(v is not None for v in scores.scores) or scores.delta_nll is not None
    removed = frozenset(run.removed)
    return (
        _figure(figures.get(f"windows-{name}"), "Angular distance of every window of blocks")
        + _figure(figures.get(f"scores-{name}"), alt, settings)
        + "".join(_paragraph(note) for note in noise_notes(scores, removed))
        + (_details("Path", _table(path_table(scores))) if scores.path else "")
        + (_details("Windows", _table(window_table(scores))) if scores.window_scores else "")
        + (_details("Scores and ranks", _table(score_table(scores, removed))) if scored else "")
    )


def _scores(run: RunRecord, figures: Mapping[str, str]) -> str:
    chosen = run.chosen
    if chosen is None:
        return ""
    parts = [_one_score(run, chosen, figures)]
    for scores in run.scores:
        if scores is not chosen and scores.criterion not in BASELINES:
            parts.append(_details(f"Also scored: {scores.name}", _one_score(run, scores, figures)))
    lower = "The lower the score, the less the unit matters and the sooner it is removed."
    return _section("Scores", _paragraph(lower, "note"), *parts)


def _evaluation(run: RunRecord) -> str:
    perplexity, tasks = evaluation_tables(run), task_table(run)
    if not perplexity and not tasks.rows:
        return ""
    note = ""
    if len(perplexity) > 1:
        note = _paragraph(
            "Figures of different protocols cannot be compared: each protocol has its own table.",
            "note",
        )
    return _section(
        "Evaluation", note, *map(_table, perplexity), _table(tasks) if tasks.rows else ""
    )


def _sparsity(run: RunRecord) -> str:
    return _json("Sparsity", run.sparsity or None, "")


def _loading(run: RunRecord) -> str:
    parts = []
    folder = f"{run.name}/model"
    if run.exported:
        quoted = repr(folder)
        parts.append(
            _paragraph("With transformers:")
            + _code(
                "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
                f"model = AutoModelForCausalLM.from_pretrained({quoted})\n"
                f"tokenizer = AutoTokenizer.from_pretrained({quoted})"
            )
            + _paragraph("With jprune:")
            + _code(f"import jprune\n\nllama = jprune.load({quoted})")
        )
        if any(part != "block" for _, part in run.removed):
            parts.append(
                _paragraph(
                    "Stock Llama code has no layer without its attention or MLP: in this export "
                    "the output projection of each removed sublayer is zero, so the results are "
                    "those of the pruned model but the saving in time and memory is not. An Orbax "
                    "checkpoint (jprune export --to=orbax) keeps the true structure.",
                    "note",
                )
            )
    if run.recipe:
        recipe = shlex.quote(f"{run.name}/recipe.json")
        parts.append(
            _paragraph("From the original model and the recipe:")
            + _code(f"jprune apply --recipe={recipe} --out=DIR")
        )
    return _section("How to load the result", *parts) if parts else ""


def _code(text: str) -> str:
    return f"<pre><code>{escape(text)}</code></pre>\n"


def _json(title: str, value: Any, note: str) -> str:
    if not value:
        return ""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    return _section(
        title,
        _paragraph(note, "note") if note else "",
        _details("Show" if text.count("\n") > 40 else "JSON", _code(text), text.count("\n") <= 40),
    )
