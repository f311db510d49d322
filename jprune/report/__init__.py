"""Reports of runs: tables, plots, one HTML page per workdir."""

from jprune.report.comparison import Comparison, compare
from jprune.report.comparison_tables import render_comparison
from jprune.report.page import Report, write_report
from jprune.report.reading import RunRecord, ScoreFile, parse_scores, read_run
from jprune.report.tables import render

__all__ = [
    "Comparison",
    "Report",
    "RunRecord",
    "ScoreFile",
    "compare",
    "parse_scores",
    "read_run",
    "render",
    "render_comparison",
    "write_report",
]
