"""Where a study is kept: a journal file, or whatever an Optuna URL names."""

import contextlib
import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from typing import Any

from jprune.core.errors import InputError
from jprune.core.paths import PathLike, as_path, input_errors, is_remote
from jprune.core.progress import log

_OBJECT_STORES = ("gs:", "s3:", "az:", "abfs:")
_JOURNAL_START = b'{"op_code":'
_SQLITE_PATIENCE = 60.0  # seconds that a worker waits for another to finish writing


def import_optuna() -> Any:
    """Optuna, whose import takes a second; what it logs goes to jprune's log from warnings on."""
    import optuna

    optuna.logging.disable_default_handler()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    logger = logging.getLogger("optuna")
    if not any(isinstance(handler, _Forward) for handler in logger.handlers):
        logger.addHandler(_Forward())
    return optuna


class _Forward(logging.Handler):
    """Passes records on to jprune's log."""

    def emit(self, record: logging.LogRecord) -> None:
        log.handle(record)


def open_storage(storage: Any) -> Any:
    """An Optuna storage.

    Args:
      storage: a path, the journal file, made if it is not there; an Optuna URL such as
        'postgresql://user@host/database' or 'redis://host:6379', for workers on many machines; a
        storage of Optuna's; or None, for one in memory.

    Raises:
      InputError: object storage, which has no journals; a database that cannot be reached; a file
        that is no journal.
    """
    optuna = import_optuna()
    if storage is None or isinstance(storage, optuna.storages.BaseStorage):
        return optuna.storages.get_storage(storage)
    if not isinstance(storage, str) or not is_remote(storage):
        return _journal(optuna, storage)
    if storage.startswith(_OBJECT_STORES):
        raise InputError(
            f"a study cannot be kept on object storage ({storage}); give a local path or an Optuna "
            "URL, such as postgresql://user@host/database"
        )
    try:
        if storage.startswith("redis"):
            backend = optuna.storages.journal.JournalRedisBackend(storage)
            return optuna.storages.JournalStorage(backend)
        waits = {"connect_args": {"timeout": _SQLITE_PATIENCE}}
        options = waits if storage.startswith("sqlite") else {}
        with _logging_kept():
            database = optuna.storages.RDBStorage(storage, engine_kwargs=options)
        return optuna.storages.get_storage(database)
    except Exception as error:
        # Each driver has errors of its own, and one that is not installed is an ImportError.
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"cannot open the storage {storage}: {reason}") from error


@contextlib.contextmanager
def _logging_kept() -> Iterator[None]:
    """Within the block Alembic does not set up logging, as it does where nobody has."""
    root, stand_in = logging.getLogger(), logging.NullHandler()
    root.addHandler(stand_in)
    try:
        yield
    finally:
        root.removeHandler(stand_in)


def _journal(optuna: Any, path: PathLike) -> Any:
    file = as_path(path)
    no_journal = InputError(f"{file} is not the journal of a search; give another name")
    with input_errors(f"cannot write {file}"):
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab"):
            pass
        with file.open("rb") as stream:
            if not _JOURNAL_START.startswith(stream.read(len(_JOURNAL_START))):
                raise no_journal
    name = os.fspath(file)
    backend = optuna.storages.journal.JournalFileBackend(name, lock_obj=_lock(name))
    try:
        return optuna.storages.JournalStorage(backend)
    except (ValueError, KeyError, TypeError, AssertionError):
        raise no_journal from None


def _lock(path: str) -> "JournalLock | None":
    """The lock of a journal; None where the file system has none, for Optuna's own."""
    lock = JournalLock(path)
    try:
        lock.acquire()
        lock.release()
    except OSError:
        return None
    return lock


class JournalLock:
    """A lock on a journal that the kernel frees when its owner dies, however it dies.

    Optuna's own locks stay when their process is killed, and all others wait for half a minute.
    Whoever gets the lock also removes the half line that a killed process may have left at the end
    of the file, which would otherwise spoil the next one.
    """

    def __init__(self, path: str):
        self._path = path
        self._mine = threading.local()

    def acquire(self) -> bool:
        """Waits for the lock."""
        # A signal may have come between the last acquisition and the work that it was for.
        self.release()
        self._mine.descriptor = os.open(self._path, os.O_RDWR)
        try:
            fcntl.flock(self._mine.descriptor, fcntl.LOCK_EX)
            _remove_half_line(self._mine.descriptor)
        except BaseException:
            self.release()
            raise
        return True

    def release(self) -> None:
        """Gives the lock back, if this thread has it."""
        descriptor = getattr(self._mine, "descriptor", None)
        if descriptor is not None:
            self._mine.descriptor = None
            os.close(descriptor)


def _remove_half_line(descriptor: int) -> None:
    size = os.fstat(descriptor).st_size
    if not size or os.pread(descriptor, 1, size - 1) == b"\n":
        return
    end = size
    while end:
        start = max(0, end - 65536)
        at = os.pread(descriptor, end - start, start).rfind(b"\n")
        if at >= 0:
            os.ftruncate(descriptor, start + at + 1)
            return
        end = start
    os.ftruncate(descriptor, 0)
