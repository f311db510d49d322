"""Reports of runs: tables, plots, one HTML page per workdir."""

from jprune.report.comparison import Comparison, compare
from jprune.report.comparison_tables import render_comparison
from jprune.report.curve_comparison import compare_curves, render_curves
from jprune.report.objective_comparison import compare_objectives, render_objectives
from jprune.report.page import Report, write_report
from jprune.report.reading import RunRecord, ScoreFile, parse_scores, read_run
from jprune.report.sparse_words import sparsity_notes
from jprune.report.sparsity import parse_sparsity
from jprune.report.tables import render

__all__ = [
    "Comparison",
    "Report",
    "RunRecord",
    "ScoreFile",
    "compare",
    "compare_curves",
    "compare_objectives",
    "parse_scores",
    "parse_sparsity",
    "read_run",
    "render",
    "render_comparison",
    "render_curves",
    "render_objectives",
    "sparsity_notes",
    "write_report",
]
