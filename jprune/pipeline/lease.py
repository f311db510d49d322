"""A lease on a workdir of an object store, which has no locks that end with their process.

`W/.lease/` holds numbered objects, and the one with the highest number tells who works in W. A new
one is made under the next number only if there is none (the store decides between two that try at
once), and its owner writes it again every few seconds. Nobody compares clocks: a lease is dead if
its owner ran on this machine and is gone, or if nobody renews it while one watches. So a killed run
is resumed at once on the same machine, and within a minute on another. An owner that slept for so
long that somebody took over finds a higher number, and stops before it records anything.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from etils import epath

from jprune.core import aside
from jprune.core.errors import InputError
from jprune.core.files import create_bytes, jsonable, read_json, write_json
from jprune.core.progress import log

FOLDER = ".lease"
RENEWED_EVERY = 10.0  # seconds
WATCHED_FOR = 45.0  # seconds


class LeaseLost(InputError):
    """Somebody else has the workdir now: nothing more may be written in it."""


@contextmanager
def lease(workdir: epath.Path) -> Iterator[Callable[[], None]]:
    """Holds `workdir` until the block ends; gives a function that raises LeaseLost if it is lost.

    Raises:
      InputError: another process has the workdir, or the store cannot be written.
    """
    folder = workdir / FOLDER
    file = _take(workdir, folder)
    over = threading.Event()
    renewal = threading.Thread(target=_renew, args=(file, over), daemon=True)
    renewal.start()
    try:
        yield lambda: _check(workdir, folder, file)
    finally:
        over.set()
        renewal.join()
        # It stays, so that numbers only grow: a late comer cannot take one that was given away.
        write_json(file, _owner() | {"released": True})


def _take(workdir: epath.Path, folder: epath.Path) -> epath.Path:
    """A lease under the next number, once the last one is released or dead."""
    while True:
        last = _last(folder)
        if last is not None:
            _wait_for_end(workdir, last)
        number = 1 + (int(last.stem) if last else 0)
        file = folder / f"{number:06d}.json"
        if create_bytes(file, json.dumps(jsonable(_owner())).encode()):
            break
    for older in folder.iterdir():
        if older.name < file.name:
            older.unlink(missing_ok=True)
    return file


def _wait_for_end(workdir: epath.Path, file: epath.Path) -> None:
    """Returns once a lease is over. Raises InputError as soon as its owner gives a sign of life."""
    before = _read(file)
    owner = f"process {before.get('pid')} on {before.get('host')}"
    in_use = InputError(
        f"{workdir} is in use by {owner}: wait for it to end, or give another --workdir"
    )
    if before.get("released"):
        return
    if before.get("machine") == aside.machine():
        if aside.is_gone(before["pid"], before["started"]):
            return
        raise in_use
    log.info("%s was in use by %s: watching for %g s if it lives", workdir, owner, WATCHED_FOR)
    end = time.monotonic() + WATCHED_FOR
    while time.monotonic() < end:
        time.sleep(min(1.0, WATCHED_FOR / 10))
        now = _read(file)
        if now.get("released"):
            return
        if now != before:
            raise in_use


def _renew(file: epath.Path, over: threading.Event) -> None:
    count = 0
    while not over.wait(RENEWED_EVERY):
        count += 1
        try:
            write_json(file, _owner() | {"renewed": count})
        except InputError as error:
            log.warning("the lease on the workdir was not renewed: %s", error)


def _check(workdir: epath.Path, folder: epath.Path, file: epath.Path) -> None:
    last = _last(folder)
    if last is None or last.name != file.name:
        owner = _read(last) if last else {}
        raise LeaseLost(
            f"{workdir} was taken over by process {owner.get('pid')} on {owner.get('host')}, which "
            "saw no sign of life from this one: this run stops, and that one goes on"
        )


def _last(folder: epath.Path) -> epath.Path | None:
    files = [file for file in folder.iterdir() if file.stem.isdigit()] if folder.is_dir() else []
    return max(files, key=lambda file: file.name, default=None)


def _read(file: epath.Path) -> dict[str, Any]:
    """A lease; one that was just replaced by the next is over."""
    return read_json(file) if file.exists() else {"released": True}


def _owner() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "machine": aside.machine(),
        "pid": os.getpid(),
        "started": aside.start_of(os.getpid()),
        "time": time.time(),
    }
