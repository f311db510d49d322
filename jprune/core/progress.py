"""Progress on stderr: a bar on a terminal, occasional plain lines elsewhere."""

import logging
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TypeVar

T = TypeVar("T")

log = logging.getLogger("jprune")

INTERVAL = 5.0  # seconds between two lines, at least


def progress(
    iterable: Iterable[T],
    label: str,
    total: int | None = None,
    unit: str = "it",
    note: Callable[[], str] | None = None,
) -> Iterator[T]:
    """Yields the items of `iterable` and shows on stderr how far it is.

    Args:
      iterable: what to go through.
      label: what is being done, e.g. "scoring blocks".
      total: number of items; taken from `len(iterable)` where it has one.
      unit: the name of one item.
      note: gives a few words more, such as a loss.
    """
    if not log.isEnabledFor(logging.WARNING):  # another process speaks for this one
        yield from iterable
        return
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    if sys.stderr.isatty():
        from tqdm import tqdm

        bar = tqdm(iterable, desc=label, total=total, unit=unit, leave=False, file=sys.stderr)
        for item in bar:
            yield item
            if note is not None:
                bar.set_postfix_str(note(), refresh=False)
        return
    start = shown = time.monotonic()
    done = 0
    for item in iterable:
        yield item
        done += 1
        now = time.monotonic()
        if now - shown >= INTERVAL and done != total:
            shown = now
            print(_line(label, done, total, now - start, unit, note), file=sys.stderr, flush=True)
    elapsed = time.monotonic() - start
    print(_line(label, done, total, elapsed, unit, note), file=sys.stderr, flush=True)


def _line(
    label: str,
    done: int,
    total: int | None,
    seconds: float,
    unit: str,
    note: Callable[[], str] | None = None,
) -> str:
    """One line of progress: count, rate, a note, and time left while there is any."""
    rate = done / seconds if seconds > 0 else 0.0
    count = f"{done}/{total}" if total is not None else f"{done}"
    line = f"{label}: {count} {unit}, {rate:.3g} {unit}/s"
    words = note() if note is not None else ""
    line = f"{line}, {words}" if words else line
    if total is not None and done < total and rate > 0:
        return f"{line}, ETA {_clock((total - done) / rate)}"
    return f"{line}, took {_clock(seconds)}"


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
