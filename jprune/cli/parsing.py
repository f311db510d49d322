"""Flags of one command: parsed from its arguments, shown by --help."""

import inspect
import re
import shlex
import shutil
import textwrap
import time
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from absl import flags as absl_flags

from jprune.cli import configs
from jprune.core.errors import InputError, nearest


class Command(Protocol):
    """A module `jprune.cli.NAME`. Its docstring is the help of the command.

    A module that takes arguments without a flag name sets POSITIONAL to the name of the list flag
    that they stand for.
    """

    def define(self, flags: absl_flags.FlagValues) -> None:
        """Defines the flags of the command."""

    def run(self, flags: "Flags") -> int:
        """Runs the command and returns the exit status."""


class Flags(absl_flags.FlagValues):
    """Flag values with what the result of a command says about the call."""

    @property
    def command_line(self) -> str:
        """The call, as a shell would take it."""
        return self.__dict__.get("_command_line", "")

    @property
    def elapsed(self) -> float:
        """Seconds since the flags were parsed."""
        return time.monotonic() - self.__dict__.get("_start", time.monotonic())

    def started(self, words: Sequence[str]) -> None:
        """Notes the call and when it began."""
        self.__dict__["_command_line"] = shlex.join(words)
        self.__dict__["_start"] = time.monotonic()


def parse(name: str, command: Any, argv: Sequence[str]) -> Flags:
    """The flags of `command` with the values in `argv`.

    Raises:
        InputError: an unknown flag (with the nearest), a value of the wrong type, an argument that
            is no flag.
    """
    flags = _defined(command)
    words = configs.gather_overrides(argv) if "config" in flags else list(argv)
    try:
        rest = flags([name, *words])[1:]
    except absl_flags.UnrecognizedFlagError as error:
        raise InputError(_unknown_flag(name, error.flagname, flags)) from None
    except absl_flags.IllegalFlagValueError as error:
        raise _illegal_value(str(error), flags) from None
    except absl_flags.Error as error:
        raise InputError(
            f"{str(error).strip().splitlines()[0]} (see jprune {name} --help)"
        ) from None
    positional = getattr(command, "POSITIONAL", "")
    if rest and not positional:
        raise InputError(f"unexpected argument {rest[0]!r}; flags are written --name=value")
    if rest:
        flags[positional].value = [*(flags[positional].value or []), *rest]
    flags.started(["jprune", name, *argv])
    return flags


def unknown_value(flag: str, value: str, choices: Iterable[str]) -> InputError:
    """The error for a flag whose value is none of `choices`."""
    choices = list(choices)
    close = nearest(value, choices)
    hint = f"; did you mean --{flag}={close}?" if close else ""
    return InputError(f"unknown value: --{flag}={value}{hint} (one of {', '.join(choices)})")


def help_text(name: str, command: Any, words: Sequence[str] = ()) -> str:
    """What the command does, and its flags with their defaults; it may have more to say.

    A module with a function `help_text(words, general)` gives the whole text: `words` are the
    arguments beside --help.
    """
    flags = _defined(command)
    width = min(shutil.get_terminal_size().columns, 100)
    lines = [inspect.cleandoc(command.__doc__ or name), "", "flags:"]
    for flag in map(flags.__getitem__, _shown(flags)):
        value = "" if flag.boolean else f"={_value_name(flag)}"
        default = "" if flag.default in (None, "", [], False) else f" (default: {_default(flag)})"
        text = f"{flag.help}{default}"
        lines.append(f"  --{flag.name}{value}")
        lines += textwrap.wrap(text, width, initial_indent=" " * 6, subsequent_indent=" " * 6)
    general = "\n".join(lines)
    return command.help_text(words, general) if hasattr(command, "help_text") else general


def _defined(command: Any) -> Flags:
    flags = Flags()
    command.define(flags)
    return flags


def _shown(flags: Flags) -> list[str]:
    """The names of the flags that users are told of, in the order of their definition."""
    return [name for name in flags if not (flags[name].help or "").startswith(configs.HIDDEN)]


def _unknown_flag(command: str, flag: str, flags: Flags) -> str:
    keys = configs.keys_of(flags["config"].value) if "config" in flags else []
    close = None if flag in keys else nearest(flag, _shown(flags))
    key = None if close else nearest(flag, keys)
    hint = f"see jprune {command} --help"
    if close or key:
        hint = f"did you mean --{close}?" if close else f"did you mean --config.{key}=...?"
    return f"unknown flag --{flag} of jprune {command}; {hint}"


def _illegal_value(message: str, flags: Flags) -> InputError:
    found = re.match(r"flag --(\w+)=(.*?): (.*)", message, re.DOTALL)
    if not found or found[1] not in flags:
        return InputError(message)
    name, value, reason = found.groups()
    parser = flags[name].parser
    if isinstance(parser, absl_flags.EnumParser):
        return unknown_value(name, value, parser.enum_values)
    wanted = {"int": "an integer", "float": "a number", "bool": "true or false"}
    if parser.flag_type() in wanted and " is not " not in reason:
        return InputError(f"--{name} takes {wanted[parser.flag_type()]}, not {value!r}")
    return InputError(f"--{name}={value}: {reason.strip()}")


def _value_name(flag: absl_flags.Flag) -> str:
    kinds = {"int": "N", "float": "X", "comma separated list of strings": "A,B"}
    return kinds.get(flag.parser.flag_type(), "VALUE")


def _default(flag: absl_flags.Flag) -> str:
    return ",".join(flag.default) if isinstance(flag.default, list) else str(flag.default)
