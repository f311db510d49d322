"""Real processes that run one program together, for tests."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence


def start(
    program: str, *arguments: object, processes: int = 2, devices: int = 2
) -> list[subprocess.Popen[str]]:
    """Starts Python with a program in every process, each with simulated devices of its own."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    env = os.environ | {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    if processes > 1:
        env |= {
            "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
            "JAX_NUM_PROCESSES": str(processes),
        }
    return [
        subprocess.Popen(
            [sys.executable, "-c", program, *map(str, arguments)],
            env=env | {"JAX_PROCESS_ID": str(index)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index in range(processes)
    ]


def finish(running: Sequence[subprocess.Popen[str]], timeout: float = 300) -> list[tuple[str, str]]:
    """What each process printed on stdout and stderr; kills those that do not end."""
    try:
        return [process.communicate(timeout=timeout) for process in running]
    finally:
        for process in running:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.communicate()
