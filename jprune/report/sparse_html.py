"""The parts of a page that are about sparsity."""

from collections.abc import Mapping

from jprune.report import elements
from jprune.report.reading import RunRecord
from jprune.report.sections import protocol_text
from jprune.report.sparse_tables import block_table, sparsity_curve_table, statistics_table
from jprune.report.sparse_words import sparsity_notes


def sparsity_section(run: RunRecord, figures: Mapping[str, str]) -> str:
    """How sparse each block is, and what that is good for; other forms of it as JSON."""
    sparsity = run.sparse
    if sparsity is None:
        return elements.json_section("Sparsity", run.sparsity or None, "", "run.json")
    alt = "Density of every block: allocated as bars, achieved as marks"
    return elements.section(
        "Sparsity",
        *(elements.paragraph(note) for note in sparsity_notes(sparsity)),
        elements.figure(figures.get("density"), alt),
        elements.table_of(block_table(sparsity)) if sparsity.blocks else "",
    )


def sparsity_curve_section(run: RunRecord, figures: Mapping[str, str]) -> str:
    """Perplexity against sparsity, the allocations side by side."""
    curve = run.sparsity_curve
    if curve is None or not curve.series:
        return ""
    words = (
        curve.pruner,
        curve.data,
        protocol_text(curve.protocol),
    )
    return elements.section(
        "Perplexity against sparsity",
        elements.figure(
            figures.get("sparsity_curve"),
            "Perplexity against sparsity, one line per allocation",
            ". ".join(word for word in words if word),
        ),
        elements.details("The figures", elements.table_of(sparsity_curve_table(curve))),
    )


def statistics_section(run: RunRecord) -> str:
    """What the rates of the blocks come from."""
    if run.statistics is None:
        return ""
    table = statistics_table(run.statistics, run.allocation)
    return elements.section("Weight statistics", elements.table_of(table))
