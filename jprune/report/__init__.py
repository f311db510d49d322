"""Reports of runs: tables, plots, one HTML page per workdir."""

from jprune.report.page import Report, write_report
from jprune.report.reading import RunRecord, ScoreFile, parse_scores, read_run
from jprune.report.tables import render

__all__ = [
    "Report",
    "RunRecord",
    "ScoreFile",
    "parse_scores",
    "read_run",
    "render",
    "write_report",
]
