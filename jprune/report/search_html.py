"""The parts of a page that are about a search."""

from collections.abc import Mapping

from jprune.report import elements
from jprune.report.front import front_table
from jprune.report.objective_tables import run_objectives_table
from jprune.report.reading import RunRecord
from jprune.report.search_words import search_notes


def search_section(run: RunRecord, figures: Mapping[str, str]) -> str:
    """What was found, its figures beside those of simpler ways, and the model as a picture."""
    if run.search is None:
        return ""
    table = run_objectives_table(run)
    alt = "Which model every layer of the result is taken from, merged of, or dropped"
    return elements.section(
        "The result of the search",
        *(elements.paragraph(note) for note in search_notes(run)),
        elements.figure(figures.get("stitched"), alt),
        elements.table_of(table) if table else "",
    )


def progress_section(run: RunRecord, figures: Mapping[str, str]) -> str:
    """The best-so-far curve, beside those of searches that only remove."""
    search = run.search
    if search is None or "best" not in figures:
        return ""
    caption = (
        "Score: the mean over the objectives of the NLL divided by the base's, on all windows that "
        "are searched on; lower is better."
    )
    if search.removal_curves:
        caption += (
            " Searches that only remove have as many trials and the same score; the best of them "
            "is thick."
        )
    alt = "The best score so far against the number of trials, one line per search"
    return elements.section("Best so far", elements.figure(figures["best"], alt, caption))


def front_section(run: RunRecord, figures: Mapping[str, str]) -> str:
    """The Pareto front of two or more objectives."""
    search = run.search
    if search is None or len(search.objectives) < 2 or not search.front:
        return ""
    caption = (
        "NLL in nats per token on the windows that were searched on. No trial is as good as one of "
        "these in every objective and better in one"
    )
    caption += (
        "; a panel shows two objectives, and what looks worse there is better in another."
        if len(search.objectives) > 2
        else "."
    )
    alt = "NLL of the trials on the Pareto front, a panel for each pair of objectives"
    return elements.section(
        "Pareto front",
        elements.figure(figures.get("front"), alt, caption),
        elements.details("The trials", elements.table_of(front_table(search))),
    )
