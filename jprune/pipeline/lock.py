"""One process at a time in a workdir."""

import contextlib
import os
from collections.abc import Callable, Iterator

from jprune.core.errors import InputError
from jprune.core.files import PathLike, as_path, is_remote
from jprune.pipeline.lease import lease

LOCK = ".lock"


@contextlib.contextmanager
def workdir_lock(workdir: PathLike) -> Iterator[Callable[[], None]]:
    """Makes `workdir` and holds it for this process until the block ends.

    The kernel holds the lock and frees it when its owner dies, however it dies: a lock never
    outlives its process. On an object store a lease stands in for it, see `jprune.pipeline.lease`.

    Gives a function that raises LeaseLost if another process has the workdir by now, to be called
    before anything is recorded. A lock cannot be lost.

    Raises:
      InputError: another process has the workdir, or it cannot be made.
    """
    root = as_path(workdir)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the workdir {workdir}: {error.strerror}") from error
    if is_remote(workdir):
        with lease(root) as check:
            yield check
        return
    import fcntl

    try:
        descriptor = os.open(root / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise InputError(f"cannot write in the workdir {workdir}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
            raise InputError(
                f"{workdir} is in use by process {owner or 'unknown'}: wait for it to end, "
                "or give another --workdir"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield lambda: None
    finally:
        os.close(descriptor)
