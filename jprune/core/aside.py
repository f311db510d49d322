"""Temporary names beside a destination, and what is left under them by killed processes.

`.NAME.tmp-...` is a file or folder on its way to become NAME; `.NAME.old-...` is what NAME was,
moved out of the way until its replacement is there.
"""

import os
import pathlib
import re
import shutil
import socket
import uuid
from collections.abc import Iterable
from typing import Literal

from etils import epath

_NAME = re.compile(
    r"\.(?P<name>.+)\.(?P<kind>tmp|old)-(?P<host>.+)-(?P<pid>\d+)(\.(?P<started>\d+))?-[0-9a-f]+"
)


def name_for(path: epath.Path, kind: Literal["tmp", "old"]) -> epath.Path:
    """A temporary name beside a local `path`; it tells the process by host, id and start."""
    started = start_of(os.getpid())
    process = f"{os.getpid()}.{started}" if started else str(os.getpid())
    owner = f"{socket.gethostname()}-{process}-{uuid.uuid4().hex[:8]}"
    return path.parent / f".{path.name}.{kind}-{owner}"


def clear_beside(path: os.PathLike[str]) -> None:
    """Clears what killed processes of this host left beside `path` on the way to it."""
    path = pathlib.Path(path)
    found = [(child, _NAME.fullmatch(child.name)) for child in path.parent.iterdir()]
    _clear(c for c, mark in found if mark and mark["name"] == path.name and _is_stale(mark))


def clear_below(folder: os.PathLike[str]) -> None:
    """Clears what any process left in `folder` and below it; none may be at work there."""
    _clear(p for p in pathlib.Path(folder).rglob(".*") if _NAME.fullmatch(p.name))


def _clear(leftovers: Iterable[pathlib.Path]) -> None:
    """Removes temporary files and folders, rescuing a lost output."""
    # The newest first: of several old folders it is the one that was in place last.
    found = sorted(leftovers, key=_modified, reverse=True)
    for child in found:
        mark = _NAME.fullmatch(child.name)
        assert mark is not None
        path = child.with_name(mark["name"])
        # Killed between the two renames of new_dir: the old folder is still the output.
        if mark["kind"] == "old" and child.exists() and not path.exists():
            os.rename(child, path)
        elif child.is_dir():
            shutil.rmtree(child, ignore_errors=True)
        else:
            child.unlink(missing_ok=True)


def _modified(path: pathlib.Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def _is_stale(mark: re.Match[str]) -> bool:
    """Whether the process that made a temporary name ran on this host and is gone."""
    if mark["host"] != socket.gethostname():
        return False
    return is_gone(int(mark["pid"]), mark["started"])


def is_gone(pid: int, started: str | None) -> bool:
    """Whether a process of this machine has ended, going by its id and `start_of`."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        pass
    # A restarted container gives out the same ids again, to processes that started later.
    now = start_of(pid)
    return None not in (now, started) and now != started


def machine() -> str | None:
    """What is the same for all whose process ids mean the same; None if nobody says.

    That is one start of one kernel, and in it one namespace of ids: containers have their own.
    """
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def start_of(pid: int) -> str | None:
    """When a process started, in clock ticks since the system did, or None if nobody says."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # proc(5): the start is field 22; field 2, the name, is in parentheses and may hold anything.
    return stat.rpartition(")")[2].split()[19]
