"""One run as one HTML page: no scripts, no fonts, no links, nothing outside the file."""

import shlex
from collections.abc import Mapping
from html import escape

from jprune.report.elements import (
    code,
    details,
    figure,
    json_section,
    paragraph,
    section,
    table_of,
)
from jprune.report.reading import BASELINES, PART_NAMES, RunRecord, ScoreFile
from jprune.report.retraining import recovery_table, rounds_table, training_words
from jprune.report.run_tables import (
    curve_table,
    evaluation_tables,
    removed_table,
    sizes_table,
    stages_table,
    task_table,
)
from jprune.report.score_tables import noise_notes, path_table, score_table, window_table
from jprune.report.search_html import front_section, progress_section, search_section
from jprune.report.sections import headline, protocol_text, settings_text
from jprune.report.sparse_html import (
    sparsity_curve_section,
    sparsity_section,
    statistics_section,
)
from jprune.report.style import CSS

UNFINISHED = ("failed", "interrupted")


def page(run: RunRecord, figures: Mapping[str, str]) -> str:
    """The page of `run`. `figures` maps a name (stitched, best, front, curve, sparsity_curve,
    training, density, scores-NAME, windows-NAME) to SVG text made by `plots.svg`; what is not
    there is left out.
    """
    body = [
        _head(run),
        search_section(run, figures),
        progress_section(run, figures),
        front_section(run, figures),
        _curve(run, figures),
        sparsity_curve_section(run, figures),
        _retraining(run, figures),
        _rounds(run),
        _scores(run, figures),
        section("What was removed", table_of(removed_table(run))) if run.removed else "",
        sparsity_section(run, figures),
        statistics_section(run),
        _evaluation(run),
        section("Sizes", table_of(sizes_table(run))) if sizes_table(run).rows else "",
        _loading(run),
        section("Stages", table_of(stages_table(run))) if run.stages else "",
        json_section(
            "Recipe",
            run.recipe,
            "What `jprune apply` needs to make this model again.",
            "recipe.json",
        ),
        json_section("Configuration", run.config, "", "config.json"),
    ]
    title, content = escape(headline(run).title), "\n".join(part for part in body if part)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}: jprune report</title>\n<style>{CSS}</style>\n</head>\n"
        f"<body>\n<main>\n{content}\n</main>\n</body>\n</html>\n"
    )


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
    return "".join(strips) + paragraph(
        f"Every {what} of the original model in order; × marks what was removed.", "note"
    )


def _curve(run: RunRecord, figures: Mapping[str, str]) -> str:
    curve = run.figures.get("curve")
    if not isinstance(curve, Mapping) or not curve.get("series"):
        return ""
    data = f"{curve['data']}. " if curve.get("data") else ""
    protocol = protocol_text(curve.get("protocol") or {})
    return section(
        "Perplexity against units removed",
        figure(
            figures.get("curve"),
            "Perplexity against the number of removed units, one line per criterion",
            f"{data}{protocol}" if data or protocol else "",
        ),
        details("The figures", table_of(curve_table(curve))),
    )


def _retraining(run: RunRecord, figures: Mapping[str, str]) -> str:
    words, recovery = training_words(run), recovery_table(run)
    if "training" not in figures and not words:
        return ""
    return section(
        "Retraining" if words else "Training",
        paragraph(words) if words else "",
        table_of(recovery) if recovery.rows else "",
        figure(figures.get("training"), "Training loss over steps"),
    )


def _rounds(run: RunRecord) -> str:
    table = rounds_table(run)
    return section("Rounds of pruning and retraining", table_of(table)) if table.rows else ""


def _one_score(run: RunRecord, scores: ScoreFile, figures: Mapping[str, str]) -> str:
    name = scores.name
    alt = f"{scores.criterion} score of every unit; removed units are marked with a cross"
    settings = settings_text(scores.settings)
    scored = any(v is not None for v in scores.scores) or scores.delta_nll is not None
    removed = frozenset(run.removed)
    return (
        figure(figures.get(f"windows-{name}"), "Angular distance of every window of blocks")
        + figure(figures.get(f"scores-{name}"), alt, settings)
        + "".join(paragraph(note) for note in noise_notes(scores, removed))
        + (details("Path", table_of(path_table(scores))) if scores.path else "")
        + (details("Windows", table_of(window_table(scores))) if scores.window_scores else "")
        + (details("Scores and ranks", table_of(score_table(scores, removed))) if scored else "")
    )


def _scores(run: RunRecord, figures: Mapping[str, str]) -> str:
    chosen = run.chosen
    if chosen is None and run.search is None:
        return ""
    parts = [_one_score(run, chosen, figures)] if chosen else []
    for scores in run.scores:
        if scores is not chosen and scores.criterion not in BASELINES:
            title = f"Also scored: {scores.name}" if chosen else f"Of the units of {scores.name}"
            parts.append(details(title, _one_score(run, scores, figures)))
    if not parts:
        return ""
    lower = "The lower the score, the less the unit matters and the sooner it is removed."
    return section("Scores", paragraph(lower, "note"), *parts)


def _evaluation(run: RunRecord) -> str:
    perplexity, tasks = evaluation_tables(run), task_table(run)
    if not perplexity and not tasks.rows:
        return ""
    note = ""
    if len(perplexity) > 1:
        note = paragraph(
            "Figures of different protocols cannot be compared: each protocol has its own table.",
            "note",
        )
    return section(
        "Evaluation", note, *map(table_of, perplexity), table_of(tasks) if tasks.rows else ""
    )


def _loading(run: RunRecord) -> str:
    parts = []
    folder = f"{run.name}/model"
    if run.exported:
        quoted = repr(folder)
        parts.append(
            paragraph("With transformers:")
            + code(
                "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
                f"model = AutoModelForCausalLM.from_pretrained({quoted})\n"
                f"tokenizer = AutoTokenizer.from_pretrained({quoted})"
            )
            + paragraph("With jprune:")
            + code(f"import jprune\n\nllama = jprune.load({quoted})")
        )
        if any(part != "block" for _, part in run.removed):
            parts.append(
                paragraph(
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
            paragraph("From the original model and the recipe:")
            + code(f"jprune apply --recipe={recipe} --out=DIR")
        )
    return section("How to load the result", *parts) if parts else ""
