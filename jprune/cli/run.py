"""Runs a whole experiment: score, prune, evaluate, export, report.

jprune run --config=shortened_llama:ppl --config.model=DIR --workdir=W
jprune run --config=shortened_llama:ppl --config.model=DIR --workdir=W --dry_run

What W already has is not computed again: a run that was stopped goes on, and a changed key runs
only what depends on it. The page is W/report.html, the pruned model W/model.
"""

import textwrap
from collections.abc import Sequence
from typing import Any

from jprune.cli import common, configs, flag
from jprune.cli.flag import FlagValues
from jprune.cli.output import how_to_load, say
from jprune.cli.parsing import Flags
from jprune.core.errors import InputError
from jprune.core.files import as_path


def define(flags: FlagValues) -> None:
    """Defines the flags of `jprune run`."""
    configs.define(flags)
    flag.text(flags, "workdir", None, "folder of the results")
    flag.switch(flags, "dry_run", "only say which stages would run, why, and how large all will be")
    flag.switch(
        flags,
        "deterministic",
        "the same bits in every run on GPUs too, at some cost of speed: training that is resumed "
        "then has exactly the losses of training that was not",
    )
    common.define_distributed(flags)


def help_text(words: Sequence[str], general: str) -> str:
    """The general help and the configs; with --config=NAME among the words, that config's keys."""
    from jprune.cli import config_help

    chosen = _chosen(words)
    return config_help.of_config(chosen) if chosen else f"{general}\n\n{config_help.overview()}"


def _chosen(words: Sequence[str]) -> str | None:
    """The config that the last --config among the words names, after "=" or as the next word."""
    chosen = None
    for word, following in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name in ("--config", "-config"):
            value = value if equals else following
            chosen = None if value.startswith("-") else value
    return chosen


def run(flags: Flags) -> int:
    """Runs the config in the workdir and prints what came out."""
    if not flags.workdir:
        raise InputError("--workdir=... is missing: the folder of the results")
    execute(configs.load(flags), flags.workdir, flags.config, dry_run=flags.dry_run)
    return 0


def execute(
    config: Any, workdir: str, name: str, *, dry_run: bool = False, until: str | None = None
) -> None:
    """Runs a config and prints a table, or with `dry_run` the stages and sizes."""
    from jprune.pipeline import job

    if dry_run:
        print("\n".join(job.dry_run(config, workdir)))
        return
    record = job.run_config(config, workdir, name=name, until=until)
    if all(stage["status"] in ("done", "cached") for stage in record["stages"]):
        print_result(workdir)
    else:
        left = [stage["name"] for stage in record["stages"] if stage["status"] == "pending"]
        say(f"stopped before {', '.join(left)}; without --until it goes on")


def print_result(workdir: str) -> None:
    """Prints what came out, and says where the page and the model are."""
    from jprune.report.objective_tables import run_objectives_table
    from jprune.report.reading import read_run
    from jprune.report.retraining import recovery_table, rounds_table
    from jprune.report.run_tables import evaluation_tables, sizes_table
    from jprune.report.search_words import search_notes
    from jprune.report.sections import removed_text, unit_list
    from jprune.report.sparse_words import sparsity_text
    from jprune.report.tables import percent, render

    record = read_run(workdir)
    root = as_path(workdir)
    if record.removed:
        print(f"removed {removed_text(record)}: {unit_list(record.removed)}\n")
    if record.sparse:
        print(f"{sparsity_text(record.sparse)}; achieved {percent(record.sparse.achieved)}\n")
    for note in search_notes(record):
        print(textwrap.fill(note, 100, break_on_hyphens=False, break_long_words=False) + "\n")
    objectives = run_objectives_table(record)
    evaluations = [objectives] if objectives else evaluation_tables(record)
    found = (*evaluations, recovery_table(record), rounds_table(record))
    for table in (*found, sizes_table(record)):
        if table.rows:
            print(table.caption or "Size.")
            print(render(table.columns, table.rows) + "\n")
    if (root / "report.html").exists():
        say(f"report: {root / 'report.html'}")
    if (root / "adapter" / "adapter_config.json").exists():
        say(f"adapter: {root / 'adapter'}; load it on its base with --model={root / 'adapter'}")
    if record.exported:
        say(f"model: {root / 'model'}; {how_to_load(root / 'model', stock=True)}")
