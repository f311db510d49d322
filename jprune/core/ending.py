"""Several processes end a command together: none goes on, or waits, for one that has to stop.

Each keeps a note of how it stands in the key-value store that the first process serves. A thread
in each looks at the notes of all, so that also a process learns of them whose main thread waits
for the others in a computation on all devices.
"""

import contextlib
import dataclasses
import itertools
import json
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

import jax

from jprune.core.errors import InputError, Interrupted
from jprune.core.processes import store
from jprune.core.progress import log

# Seconds: between two looks at the notes, and that a process has to end by itself.
POLL, GRACE = 0.5, 5.0

# Commands are counted alike in all processes, so that their notes do not mix.
_commands = itertools.count()


@dataclasses.dataclass(frozen=True)
class Note:
    """How a process stands.

    Attributes:
      state: "stopping" (it got SIGTERM), "ended" (it waits for the others to end), or "left" (it
        waits for nobody).
      status: its exit status.
      why: what it told the user, one line; empty if all went well.
    """

    state: str
    status: int
    why: str = ""


def end_together(
    command: Callable[[], int], report: Callable[[BaseException], tuple[int, str]], stopped: Note
) -> int:
    """The exit status of `command` once all processes have ended it; 0 if all went well in all.

    If one ends it with an error, or gets SIGTERM, all end. SIGTERM is passed on to the others; who
    has not ended by itself within `GRACE` leaves the program at once, with the status of the one
    that failed. Who leaves does not wait at exit for the others, as JAX would for minutes; nor does
    who ended after SIGTERM, since the others may be waiting for it in a computation.

    Args:
      command: gives an exit status; all processes run it.
      report: tells the user of an error of `command`; gives the exit status and the line.
      stopped: the note of a process that got SIGTERM.
    """
    if not jax.distributed.is_initialized():
        return command()
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)

    def stop_no_more() -> None:
        if in_main:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)

    watch = _Watch(stopped, in_main)
    try:
        try:
            status, why = command(), ""
            if not status:
                watch.wait()
        finally:
            stop_no_more()
    except BaseException as error:
        stop_no_more()  # the signal may have come while it was still heeded
        status, why = watch.cause(error) or report(error)
    status = watch.end(Note("ended", status, why))
    if in_main:
        signal.signal(signal.SIGTERM, handler)
    return status


class _Watch:
    """The notes of all processes on one command, and the thread that looks at them."""

    def __init__(self, stopped: Note, signals: bool):
        self._store = store()
        self._me, self._all = jax.process_index(), jax.process_count()
        self._folder = f"jprune/commands/{next(_commands)}/"
        self._stopped = stopped
        self._over = threading.Event()
        # Signals are written here when they arrive, while Python's handlers wait for the main
        # thread to return from whatever it computes.
        self._read, self._written = socket.socketpair()
        self._written.setblocking(False)
        self._signals = signals
        if signals:
            self._before = signal.set_wakeup_fd(self._written.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._look, name="jprune ending", daemon=True)
        self._thread.start()

    def cause(self, error: BaseException) -> tuple[int, str] | None:
        """Status and line of the process by whose end `error` came, or None if there is none.

        A computation on all devices fails in its own words where one of them is gone.
        """
        failed = self._failed()
        if isinstance(error, InputError | Interrupted) or failed is None:
            return None
        return self._tell(*failed)

    def wait(self) -> None:
        """Waits, ready to be stopped, until all have ended well or one has failed."""
        self._write(Note("ended", 0))
        for notes in self._looks():
            if self._failed(notes) or len(notes) == self._all:
                return

    def end(self, note: Note) -> int:
        """Ends the thread, waits for the other processes and gives the exit status of this one."""
        self._over.set()
        self._written.send(b"\0")
        self._thread.join()
        if self._signals:
            signal.set_wakeup_fd(self._before)
        self._read.close()
        self._written.close()
        self._write(note)
        if note.status == self._stopped.status:
            time.sleep(2 * POLL)  # the others learn of it before computations with this one fail
            self._leave(note)
        give_up = float("inf")
        for notes in self._looks():
            states = [other.state for other in notes.values()]
            failed = self._failed(notes)
            if failed:
                give_up = min(give_up, time.monotonic() + GRACE)
            all_ended = states == ["ended"] * self._all
            if all_ended or "left" in states or time.monotonic() > give_up:
                if failed and not note.status:
                    note = dataclasses.replace(note, status=self._tell(*failed)[0])
                if all_ended:
                    break
                self._leave(note)
        return note.status

    def _look(self) -> None:
        failed: tuple[int, Note] | None = None
        give_up = float("inf")
        while not self._over.is_set():
            ready, _, _ = select.select([self._read], [], [], POLL)
            if ready and signal.SIGTERM in self._read.recv(64):
                self._write(self._stopped)
            if failed is None:
                failed = self._failed()
                if failed is None:
                    continue
                give_up = time.monotonic() + GRACE
                if failed[0] != self._me and failed[1].status == self._stopped.status:
                    os.kill(os.getpid(), signal.SIGTERM)
            if time.monotonic() > give_up and not self._over.is_set():
                status, why = self._tell(*failed)
                self._leave(Note("left", status, why))

    def _tell(self, process: int, note: Note) -> tuple[int, str]:
        """Tells the user why this process ends; gives what it ends with."""
        if process == self._me:
            log.error("%s", note.why)
        else:
            log.error("ended with process %d, which said: %s", process, note.why)
        return note.status, note.why

    def _leave(self, note: Note) -> None:
        """Ends the program without a word to JAX, which would wait for the others."""
        self._write(dataclasses.replace(note, state="left"))
        if self._me == 0:  # whose store the others need to the last
            give_up = time.monotonic() + GRACE + 4 * POLL
            for notes in self._looks():
                others = [other.state for process, other in notes.items() if process]
                if others == ["left"] * (self._all - 1) or time.monotonic() > give_up:
                    break
            time.sleep(POLL)  # until they are gone indeed
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
        os._exit(note.status)

    def _failed(self, notes: dict[int, Note] | None = None) -> tuple[int, Note] | None:
        """A process that ends with an error, and its note; another one than this if there is."""
        notes = self._notes() if notes is None else notes
        failed = {process: note for process, note in notes.items() if note.status}
        return min(failed.items(), key=lambda item: item[0] == self._me, default=None)

    def _looks(self) -> Iterator[dict[int, Note]]:
        """The notes again and again, at first quickly."""
        pause = 0.01
        while True:
            yield self._notes()
            time.sleep(pause)
            pause = min(2 * pause, POLL)

    def _notes(self) -> dict[int, Note]:
        try:
            found = self._store.key_value_dir_get(self._folder)
        except jax.errors.JaxRuntimeError:
            log.error("ended because the first process is gone")
            os._exit(1)
        return {int(key.rpartition("/")[2]): Note(**json.loads(text)) for key, text in found}

    def _write(self, note: Note) -> None:
        text = json.dumps(dataclasses.asdict(note))
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # `_notes` will tell
            self._store.key_value_set(f"{self._folder}{self._me}", text, allow_overwrite=True)
