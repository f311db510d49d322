"""The process's own memory allocator."""

import ctypes

# mallopt(3), the numbers of <malloc.h>.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER = 2**31 - 1


def keep_freed_memory() -> bool:
    """Has glibc's malloc keep freed memory for later buffers; says whether it does.

    XLA takes new buffers for every program on a CPU. By default large ones come from the system and
    go back to it each time, and clearing their pages anew took half of the time of a perplexity on
    windows of 512 tokens. The process then holds what it held at its peak. Other C libraries are
    left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if _is_glibc() else None
    if mallopt is None:
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, _NEVER))


def _is_glibc() -> bool:
    try:
        return hasattr(ctypes.CDLL(None), "gnu_get_libc_version")
    except (OSError, TypeError):  # Windows has no such library
        return False
