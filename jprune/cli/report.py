"""Rebuilds the report page of a finished run, or compares several runs in one table.

jprune report W --table=curve
jprune report W1 W2 W3 --reference=W1 --out=table.md

For one run: writes W/report.html and W/plots/*.png, and prints one row, or with --table=curve the
perplexity of each criterion at each number of removed units, of each allocation at each sparsity,
or with --table=objectives of a search its result beside the models that it is compared with.
For several: one row per run; runs that differ only in their seed are one row, with mean and
standard deviation; with --table=curve the curves of sparse runs side by side, with
--table=objectives the models of searches. Runs that were measured with different protocols are
refused.
"""

from collections.abc import Sequence
from typing import Any

from absl import flags as absl_flags

from jprune.cli import flag, output
from jprune.cli.parsing import Flags
from jprune.core.errors import InputError
from jprune.core.files import as_path, write_text
from jprune.report.reading import RunRecord
from jprune.report.tables import FORMATS, Table, render

POSITIONAL = "workdir"

# A printed table, the figures for --out, and the protocol of these.
_Result = tuple[str, dict[str, Any], dict[str, Any] | None]

# How a printed table begins: a file that begins so may be replaced by another.
_BEGIN = (
    *(b"Run ", b"| Run ", b"Run,", b"run,"),
    *(b"Removed ", b"| Removed ", b"Removed,", rb"\begin{tabular}"),
    *(b"Model ", b"| Model "),
    *(b"Sparsity ", b"| Sparsity ", b"Sparsity,", b"sparsity,"),
)
_ENDINGS = {".json": "json", ".txt": "text", ".md": "md", ".csv": "csv", ".tex": "tex"}


def define(flags: absl_flags.FlagValues) -> None:
    """Defines the flags of `jprune report`."""
    flag.texts(
        flags,
        POSITIONAL,
        "folders that `jprune run` wrote; without --workdir= they are words: jprune report A B",
    )
    absl_flags.DEFINE_enum(
        "format",
        None,
        list(FORMATS),
        "form of the printed table; by default that of --out, else text",
        flag_values=flags,
    )
    absl_flags.DEFINE_enum(
        "table",
        "summary",
        ["summary", "curve", "objectives"],
        "which is printed; objectives is for searches, curve of several runs for sparse ones",
        flag_values=flags,
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
        "file for the result; its ending says as what: .json for all figures, or .md, .csv, .tex, "
        ".txt for the printed table",
    )


def run(flags: Flags) -> int:
    """Rebuilds the page of one workdir, or compares several.

    Raises:
      InputError: no workdir, one that has no run in it, runs that do not compare, or an --out
        whose ending is unknown or at odds with --format.
    """
    workdirs = flags.workdir
    if not workdirs:
        raise InputError("no workdir given; write: jprune report WORKDIR")
    _check_words(workdirs)
    several = len(workdirs) > 1
    if several and flags.table != "summary" and flags.reference:
        raise InputError(f"--reference is for the table of runs, not for --table={flags.table}")
    if not several and (flags.reference or flags.per_run):
        name = "reference" if flags.reference else "per_run"
        raise InputError(f"--{name} is for a comparison: give several workdirs")
    written = _written(flags)
    shown = flags.format or (written if written in FORMATS else "text")
    if not several:
        table, result, protocol = _rebuild(flags, workdirs[0], shown)
    elif flags.table == "objectives":
        table, result, protocol = _compare_objectives(flags, shown)
    elif flags.table == "curve":
        table, result, protocol = _compare_curves(flags, shown)
    else:
        table, result, protocol = _compare(flags, shown)
    print(table)
    if written == "json":
        output.write(flags, result, protocol)
    elif written:
        write_text(flags.out, table + "\n")
        output.say(f"wrote {flags.out}")
    return 0


def _check_words(workdirs: Sequence[str]) -> None:
    """Raises InputError, with what to write, for folders in one word with commas between them."""
    for workdir in workdirs:
        if "," in workdir and not as_path(workdir).exists():
            raise InputError(
                f"no workdir at {workdir}; several are several words: jprune report "
                f"{workdir.replace(',', ' ')}"
            )


def _written(flags: Flags) -> str | None:
    """What --out will hold: JSON, or the table in a form; None without --out.

    Raises:
      InputError: an unknown ending, one at odds with --format, or a file in its place that no
        such result may replace.
    """
    out = flags.out
    if not out:
        return None
    if as_path(out).is_dir():
        raise InputError(f"--out={out} is a folder; give the name of a file")
    written = _ENDINGS.get(as_path(out).suffix.lower())
    if written is None:
        raise InputError(
            f"--out={out}: what to write? end the name in {', '.join(_ENDINGS)}: all figures as "
            "JSON, or the table"
        )
    if written == "json":
        output.check_out_file(out)
        return written
    if flags.format not in (None, written):
        ending = next(end for end, form in _ENDINGS.items() if form == flags.format)
        raise InputError(
            f"--out={out} is the name of a table as {written}, but --format={flags.format} is "
            f"given: leave that out, or end the name in {ending}"
        )
    path = as_path(out)
    if path.exists() and not path.read_bytes().startswith(_BEGIN):
        raise InputError(f"--out={out} exists and is no table of jprune; give another name")
    return written


def _rebuild(flags: Flags, workdir: str, shown: str) -> _Result:
    """Writes the page; gives the run's row, or its curve, and its figures."""
    from jprune.report import write_report
    from jprune.report.sections import perplexity_pair, summary_table

    report = write_report(workdir)
    further: dict[str, Any] = {}
    if flags.table == "objectives":
        text, further, _ = _compare_objectives(flags, shown)
    else:
        curve = flags.table == "curve"
        table = _curve(report.run, workdir) if curve else summary_table(report.run)
        text = render(table.columns, table.rows, shown)
        if table.caption and shown in ("text", "md"):
            text += f"\n\n{table.caption}" if shown == "md" else f"\n{table.caption}"
    output.say(f"wrote {report.page} and {len(report.plots)} plots")
    first, last = perplexity_pair(report.run)
    result = {
        "workdir": workdir,
        "page": report.page,
        "plots": report.plots,
        "model": report.run.model,
        "removed": [{"layer": layer, "part": part} for layer, part in report.run.removed],
        "ppl": {"before": first and first.ppl, "after": last and last.ppl},
        "sparsity": report.run.sparsity,
        **further,
    }
    return text, result, dict(last.protocol) if last else None


def _curve(run: RunRecord, workdir: str) -> Table:
    """Perplexity against units removed or sparsity.

    Raises:
      InputError: the run has no curve.
    """
    from jprune.report.run_tables import curve_table
    from jprune.report.sparse_tables import sparsity_curve_table

    curve = run.figures.get("curve")
    if curve:
        return curve_table(curve)
    if run.sparsity_curve is None:
        raise InputError(f"the run in {workdir} has no curve; see its key curve_windows")
    return sparsity_curve_table(run.sparsity_curve)


def _compare_curves(flags: Flags, shown: str) -> _Result:
    """A table with the curves of sparse runs side by side, and its figures."""
    from jprune.report.curve_comparison import compare_curves, curve_values, render_curves

    comparison = compare_curves(flags.workdir, flags.per_run)
    result = {"points": curve_values(comparison), "left_out": comparison.left_out}
    protocol = {comparison.data: dict(comparison.protocol)}
    return render_curves(comparison, shown), result, protocol


def _compare_objectives(flags: Flags, shown: str) -> _Result:
    """A table with the models of searches side by side, and its figures."""
    from jprune.report.objective_comparison import compare_objectives, render_objectives
    from jprune.report.objective_tables import objective_values

    comparison = compare_objectives(flags.workdir, flags.per_run)
    result = {"models": objective_values(comparison.rows), "left_out": list(comparison.left_out)}
    protocols = {data: dict(fields) for data, fields in comparison.protocols.items()}
    return render_objectives(comparison, shown), result, protocols


def _compare(flags: Flags, shown: str) -> _Result:
    """A table with one row per run, and its figures."""
    from jprune.report import compare, render_comparison
    from jprune.report.comparison_tables import comparison_values

    comparison = compare(flags.workdir, flags.reference or "before", flags.per_run)
    result = {"runs": comparison_values(comparison), "left_out": list(comparison.left_out)}
    protocols = {data: dict(fields) for data, fields in comparison.protocols.items()}
    return render_comparison(comparison, shown), result, protocols
