"""Errors that a user can cause, each with the exit status that the command line gives it."""

import difflib
from collections.abc import Iterable


class JpruneError(Exception):
    """Any error that jprune raises on purpose. The message is one clear line."""


class InputError(JpruneError):
    """The input is wrong: the message says what is wrong and what would be right (exit 2).

    Attributes:
      common: all of several processes raise it; see `jprune.core.processes.together`.
    """

    common = False


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop and has saved its state (exit 75).

    It is no Exception: code that turns the errors of a library into its own lets it through, and so
    do event loops, which pass on nothing but KeyboardInterrupt and SystemExit from their callbacks.
    """


def nearest(name: str, choices: Iterable[str]) -> str | None:
    """The choice most similar to `name`, or None when none is similar."""
    by_lower = {choice.lower(): choice for choice in choices}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def unknown(kind: str, name: str, choices: Iterable[str]) -> InputError:
    """The error for a name that is none of `choices`; it suggests the nearest one.

    >>> str(unknown("criterion", "taylr", ["taylor", "magnitude"]))
    "unknown criterion 'taylr'; did you mean 'taylor'? (one of taylor, magnitude)"
    """
    choices = [str(choice) for choice in choices]
    close = nearest(str(name), choices)
    message = f"unknown {kind} {str(name)!r}"
    if close:
        message += f"; did you mean {close!r}?"
    return InputError(f"{message} (one of {', '.join(choices)})")
