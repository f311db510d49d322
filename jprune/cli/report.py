"""Rebuilds the report page of a finished run from the JSON files in its workdir.

usage: jprune report WORKDIR [--format=text|md|csv|tex] [--table=summary|curve] [--out=FILE.json]

Writes WORKDIR/report.html and WORKDIR/plots/*.png, and prints one row on the run, or with
--table=curve the perplexity of each criterion at each number of removed units.
"""

from absl import flags as absl_flags

from jprune.cli import flag, output
from jprune.cli.parsing import Flags
from jprune.core.errors import InputError
from jprune.report.tables import FORMATS, render

POSITIONAL = "workdir"


def define(flags: absl_flags.FlagValues) -> None:
    """Defines the flags of `jprune report`."""
    flag.texts(flags, POSITIONAL, "folder that `jprune run` wrote (--workdir= may be left out)")
    absl_flags.DEFINE_enum(
        "format", "text", list(FORMATS), "form of the printed table", flag_values=flags
    )
    absl_flags.DEFINE_enum(
        "table", "summary", ["summary", "curve"], "which table is printed", flag_values=flags
    )
    flag.text(flags, "out", None, "JSON file for the result")


def run(flags: Flags) -> int:
    """Writes the page and prints the run's row.

    Raises:
      InputError: no workdir or several, or one that has no run in it.
    """
    workdirs = flags.workdir
    if not workdirs:
        raise InputError("no workdir given; write: jprune report WORKDIR")
    if len(workdirs) > 1:
        raise InputError(
            f"jprune report takes one workdir, not {len(workdirs)} ({', '.join(workdirs)}); "
            "call it once for each"
        )
    output.check_out_file(flags.out)

    from jprune.report import write_report
    from jprune.report.sections import curve_table, perplexity_pair, summary_table

    report = write_report(workdirs[0])
    curve = report.run.figures.get("curve")
    if flags.table == "curve" and not curve:
        raise InputError(f"the run in {workdirs[0]} has no curve; see its key curve_windows")
    table = curve_table(curve) if flags.table == "curve" and curve else summary_table(report.run)
    print(render(table.columns, table.rows, flags.format))
    if table.caption and flags.format in ("text", "md"):
        print(f"\n{table.caption}" if flags.format == "md" else table.caption)
    output.say(f"wrote {report.page} and {len(report.plots)} plots")
    if flags.out:
        first, last = perplexity_pair(report.run)
        result = {
            "workdir": workdirs[0],
            "page": report.page,
            "plots": report.plots,
            "model": report.run.model,
            "removed": [{"layer": layer, "part": part} for layer, part in report.run.removed],
            "ppl": {"before": first and first.ppl, "after": last and last.ppl},
        }
        output.write(flags, result, dict(last.protocol) if last else None)
    return 0
