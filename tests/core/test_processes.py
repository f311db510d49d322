"""What joining other processes changes in this one. See also tests/test_processes.py."""

import signal

from tests.several import finish, start

PROGRAM = """
import os, signal, time
from jprune.core import processes
processes.initialise("on")
if os.environ["JAX_PROCESS_ID"] == "0":
    time.sleep(5)  # without the first process the other would be ended in another way
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(10)
"""


def test_what_sigterm_does_stays_as_it_is():
    running = start(PROGRAM, devices=1)
    finish(running, timeout=60)
    assert [process.returncode for process in running] == [-signal.SIGTERM] * 2
