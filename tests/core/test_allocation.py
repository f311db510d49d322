"""The allocator keeps what is freed, where it is glibc's."""

import platform
import subprocess
import sys

import pytest

# Takes, touches and frees 64 MiB; prints how often pages were new to the process after the first.
FAULTS = """
import ctypes, resource
from jprune.core.allocation import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def use():
    block = libc.malloc(2**26)
    ctypes.memset(block, 1, 2**26)
    libc.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
first = use()
print(use() - first)
"""


def faults(keep: bool) -> int:
    script = FAULTS.format(keep=keep)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this C library is not glibc")
def test_freed_memory_is_used_again_without_new_pages():
    assert faults(keep=False) > 10
    assert faults(keep=True) < 10
