"""Rebuilds the report page of a finished run, or compares several runs in one table.

jprune report W --table=curve
jprune report W1 W2 W3 --reference=W1 --format=md --out=table.md

For one run: writes W/report.html and W/plots/*.png, and prints one row, or with --table=curve the
perplexity of each criterion at each number of removed units. For several: one row per run; runs
that differ only in their seed are one row, with mean and standard deviation. Runs that were
measured with different protocols are refused.
"""

from absl import flags as absl_flags

from jprune.cli import flag, output
from jprune.cli.parsing import Flags
from jprune.core.errors import InputError
from jprune.core.files import as_path, write_text
from jprune.report.tables import FORMATS, render

POSITIONAL = "workdir"

# How a printed comparison begins: a file that begins so may be replaced by another.
_BEGIN = (b"Run ", b"| Run ", b"run,", rb"\begin{tabular}")
_ENDINGS = {".txt": "text", ".md": "md", ".csv": "csv", ".tex": "tex"}


def define(flags: absl_flags.FlagValues) -> None:
    """Defines the flags of `jprune report`."""
    flag.texts(flags, POSITIONAL, "folders that `jprune run` wrote (--workdir= may be left out)")
    absl_flags.DEFINE_enum(
        "format", "text", list(FORMATS), "form of the printed table", flag_values=flags
    )
    absl_flags.DEFINE_enum(
        "table", "summary", ["summary", "curve"], "of one run: which is printed", flag_values=flags
    )
    flag.text(
        flags,
        "reference",
        None,
        "of several runs: what the retained percentage is of; before (the default): each run's "
        "unpruned model, or a workdir",
    )
    flag.switch(flags, "per_run", "of several runs: a row for each, also for those of other seeds")
    flag.text(
        flags,
        "out",
        None,
        "JSON file for the result; of several runs also .md, .csv, .tex or .txt, for the table",
    )


def run(flags: Flags) -> int:
    """Rebuilds the page of one workdir, or compares several.

    Raises:
      InputError: no workdir, one that has no run in it, or runs that do not compare.
    """
    workdirs = flags.workdir
    if not workdirs:
        raise InputError("no workdir given; write: jprune report WORKDIR")
    if len(workdirs) > 1:
        return _compare(flags)
    if flags.reference or flags.per_run:
        name = "reference" if flags.reference else "per_run"
        raise InputError(f"--{name} is for a comparison: give several workdirs")
    return _rebuild(flags, workdirs[0])


def _rebuild(flags: Flags, workdir: str) -> int:
    """Writes the page and prints the run's row."""
    output.check_out_file(flags.out)

    from jprune.report import write_report
    from jprune.report.sections import curve_table, perplexity_pair, summary_table

    report = write_report(workdir)
    curve = report.run.figures.get("curve")
    if flags.table == "curve" and not curve:
        raise InputError(f"the run in {workdir} has no curve; see its key curve_windows")
    table = curve_table(curve) if flags.table == "curve" and curve else summary_table(report.run)
    print(render(table.columns, table.rows, flags.format))
    if table.caption and flags.format in ("text", "md"):
        print(f"\n{table.caption}" if flags.format == "md" else table.caption)
    output.say(f"wrote {report.page} and {len(report.plots)} plots")
    if flags.out:
        first, last = perplexity_pair(report.run)
        result = {
            "workdir": workdir,
            "page": report.page,
            "plots": report.plots,
            "model": report.run.model,
            "removed": [{"layer": layer, "part": part} for layer, part in report.run.removed],
            "ppl": {"before": first and first.ppl, "after": last and last.ppl},
        }
        output.write(flags, result, dict(last.protocol) if last else None)
    return 0


def _compare(flags: Flags) -> int:
    """Prints one row per run; --out gets the same table, or the figures as JSON."""
    if flags.table != "summary":
        raise InputError(f"--table={flags.table} shows one run: give one workdir")
    out, ending = flags.out, as_path(flags.out).suffix if flags.out else ""
    chosen = flags.format
    if ending in _ENDINGS and flags["format"].using_default_value:
        chosen = _ENDINGS[ending]
    if ending in _ENDINGS:
        _check_table_file(out)
    else:
        output.check_out_file(out)

    from jprune.report import compare, render_comparison
    from jprune.report.comparison_tables import comparison_values

    comparison = compare(flags.workdir, flags.reference or "before", flags.per_run)
    table = render_comparison(comparison, chosen)
    print(table)
    if ending in _ENDINGS:
        write_text(out, table + "\n")
        output.say(f"wrote {out}")
    elif out:
        protocols = {data: dict(fields) for data, fields in comparison.protocols.items()}
        result = {"runs": comparison_values(comparison), "left_out": list(comparison.left_out)}
        output.write(flags, result, protocols)
    return 0


def _check_table_file(out: str) -> None:
    """Raises InputError if --out is a folder, or a file that is no table of ours."""
    path = as_path(out)
    if path.is_dir():
        raise InputError(f"--out={out} is a folder; give the name of a file")
    if path.exists() and not path.read_bytes().startswith(_BEGIN):
        raise InputError(f"--out={out} exists and is no table of jprune; give another name")
