"""Searches for the best way to remove blocks, or to stitch a model from finetunes.

    jprune search --config=gptailor --config.model=BASE --config.variants=A,B --workdir=W
    jprune search --config=search_depth --config.model=DIR --workdir=W

The same as `jprune run` with the config of a search. A search that was stopped goes on; with
--config.storage=URL several machines work on one, each with a workdir of its own.
"""

from collections.abc import Sequence

from jprune.cli import configs
from jprune.cli import run as experiment
from jprune.cli.flag import FlagValues
from jprune.cli.parsing import Flags
from jprune.core.errors import InputError


def define(flags: FlagValues) -> None:
    """Defines the flags of `jprune search`."""
    experiment.define(flags)


def help_text(words: Sequence[str], general: str) -> str:
    """As `jprune run`."""
    return experiment.help_text(words, general)


def run(flags: Flags) -> int:
    """Searches in the workdir and prints what came out."""
    config = configs.load(flags)
    if config.get("job") != "search":
        raise InputError(
            f"{flags.config} is no search but a {config.get('job', 'depth')} run: call `jprune run`"
        )
    return experiment.run(flags)
