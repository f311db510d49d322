"""`jprune COMMAND --flag=value`: finds the command, runs it, turns errors into exit statuses."""

import contextlib
import importlib
import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from jprune.core.errors import InputError, Interrupted, nearest
from jprune.core.progress import log
from jprune.core.version import __version__

FINISHED, FAILED, BAD_INPUT, INTERRUPTED = 0, 1, 2, 75

# What each command does. Its module, `jprune.cli.NAME`, is imported only when it is called; it has
# `define(flags)` and `run(flags) -> int`, and its docstring is the help.
COMMANDS = {
    "run": "a whole experiment from a config: score, prune, evaluate, report, export",
    "search": "search for the best removal or stitch, from a config",
    "score": "how much each block or sublayer matters",
    "prune": "drop blocks or sublayers and save the smaller model",
    "merge": "merge finetunes of one model into one",
    "apply": "rebuild a model from its recipe",
    "eval": "perplexity on data sources, accuracy on zero-shot tasks",
    "generate": "text that a model writes after a prompt",
    "export": "save a model for Hugging Face or as an Orbax checkpoint",
    "report": "rebuild the page of a finished run, or compare several runs in one table",
    "bench": "measure the speed of the methods",
    "demo": "a whole run on the bundled model: no network, a few minutes on a CPU",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status.

    0: finished. 2: bad input, with one line on stderr that says what would be right. 75: stopped
    by SIGTERM with everything finished so far saved. 1: anything else.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    _quiet_libraries()
    try:
        return _dispatch(argv)
    except BaseException as error:
        return _report(error)[0]


def _report(error: BaseException) -> tuple[int, str]:
    """Tells the user of an error; gives the exit status and what was said, in one line."""
    if isinstance(error, InputError):
        return _fail(BAD_INPUT, f"error: {_one_line(error)}")
    if isinstance(error, Interrupted):
        return _fail(INTERRUPTED, _one_line(error))
    if isinstance(error, KeyboardInterrupt):
        return _fail(FAILED, "stopped from the keyboard; run the same command again to continue")
    if isinstance(error, BrokenPipeError):
        # Whoever read our output has left. Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED, "its output was cut off"
    if not isinstance(error, Exception):
        raise error
    if _is_out_of_memory(error):
        return _fail(BAD_INPUT, f"error: out of memory: {_one_line(error)[:300]}; {_SMALLER}")
    traceback.print_exception(error)
    return FAILED, f"{type(error).__name__}: {_one_line(error)[:300]}"


_SMALLER = "use fewer or shorter windows, --dtype=bfloat16, or a larger device"


def _dispatch(argv: list[str]) -> int:
    if not argv or argv[0] in ("--help", "-h", "help"):
        if len(argv) > 1 and argv[0] == "help":
            return _dispatch([argv[1], "--help"])
        print(_overview())
        return FINISHED if argv else BAD_INPUT
    if argv[0] == "--version":
        print(f"jprune {__version__}")
        return FINISHED
    name, rest = argv[0], argv[1:]
    if name not in COMMANDS:
        raise InputError(_unknown_command(name))
    from jprune.cli import parsing

    module = _module(name)

    if any(arg in ("--help", "-h", "-help") for arg in rest):
        print(parsing.help_text(name, module, rest))
        return FINISHED
    flags = parsing.parse(name, module, rest)

    from jprune.core.allocation import keep_freed_memory
    from jprune.core.compilation import (
        enable_compilation_cache,
        prefer_cublas,
        prefer_determinism,
    )
    from jprune.pipeline.interruption import interruptible

    with _shown_log(), contextlib.ExitStack() as stack:
        enable_compilation_cache()
        keep_freed_memory()
        prefer_cublas()
        if "deterministic" in flags and flags.deterministic:
            prefer_determinism()
        # Until all processes are there SIGTERM ends this one as any other program: nothing has
        # begun, and the wait for them could not be interrupted.
        _spread(flags, stack)
        with interruptible():
            return _end_together(flags, lambda: module.run(flags))


def _spread(flags: Any, stack: contextlib.ExitStack) -> None:
    """Takes its part among several processes and devices, as far as the command has flags for it.

    One process speaks for all: the others keep to errors.
    """
    if "distributed" not in flags:
        return
    from jprune.core import mesh, processes

    processes.initialise(flags.distributed)
    if not processes.is_writer():
        log.setLevel(logging.ERROR)
        stack.enter_context(contextlib.redirect_stdout(None))
    if "mesh" in flags:
        stack.enter_context(mesh.use_mesh(flags.mesh))


def _end_together(flags: Any, command: Callable[[], int]) -> int:
    """The status of a command, which of several processes none leaves before the others."""
    if "distributed" not in flags:
        return command()
    from jprune.core.ending import Note, end_together
    from jprune.pipeline.interruption import MESSAGE

    return end_together(command, _report, Note("stopping", INTERRUPTED, MESSAGE))


def _module(name: str) -> Any:
    return importlib.import_module(f"jprune.cli.{name}")


def _overview() -> str:
    width = max(map(len, COMMANDS))
    commands = "\n".join(f"  {name:{width}}  {what}" for name, what in COMMANDS.items())
    return f"""jprune makes Llama-family language models smaller.

usage: jprune COMMAND --flag=value ...

{commands}

  jprune COMMAND --help shows the flags of a command; jprune --version the version.
  jprune demo is a good start."""


def _unknown_command(name: str) -> str:
    if name.startswith("-"):
        return f"{name} comes before the command; write: jprune COMMAND {name}"
    close = nearest(name, COMMANDS)
    hint = f"did you mean {close!r}?" if close else f"one of {', '.join(COMMANDS)}"
    return f"unknown command {name!r}; {hint}"


def _fail(status: int, message: str) -> tuple[int, str]:
    print(f"jprune: {message}", file=sys.stderr, flush=True)
    return status, message


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _is_out_of_memory(error: BaseException) -> bool:
    # Compared by name, since JAX may not be imported.
    from_xla = type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError")
    return isinstance(error, MemoryError) or (from_xla and "RESOURCE_EXHAUSTED" in str(error))


@contextlib.contextmanager
def _shown_log() -> Iterator[None]:
    """Sends jprune's log to stderr, and only there."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("jprune: %(message)s"))
    before = log.level, log.propagate
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    # Libraries that set up the root logger would make every line appear twice.
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.level, log.propagate = before


def _quiet_libraries() -> None:
    """Keeps notices that say nothing to a user of jprune off the terminal."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
