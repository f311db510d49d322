"""Several processes of one run: what one of them does for all, and what all do together.

Every process runs the same program. Only process 0 writes files and prints; what it alone knows
(the state of a folder, say) it tells the others.
"""

import importlib.util
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jprune.core.errors import InputError, unknown
from jprune.core.progress import log

MODES = ("auto", "on", "off")

# Variables by which launchers tell a process how many there are.
_COUNTS = ("JAX_NUM_PROCESSES", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")


def initialise(mode: str) -> None:
    """Makes this process one of several, as its environment describes; see `jax.distributed`.

    Nothing of JAX may have been used before. The environment is that of Slurm, Open MPI, a Cloud
    TPU, or the variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID.

    Args:
      mode: "on"; "off"; or "auto": on if there is a sign of more than one process.

    Raises:
      InputError: an unknown mode, or "on" where nothing says who the others are.
    """
    if mode not in MODES:
        raise unknown("value of --distributed", mode, MODES)
    if mode == "off" or jax.distributed.is_initialized() or (mode == "auto" and not _several()):
        return
    try:
        jax.distributed.initialize(**_described())
    except (ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"cannot join the other processes ({reason}); set JAX_COORDINATOR_ADDRESS=HOST:PORT, "
            "JAX_NUM_PROCESSES and JAX_PROCESS_ID for each, or give --distributed=off"
        ) from None
    log.info(
        "process %d of %d, %d of %d devices",
        *(jax.process_index(), jax.process_count()),
        *(jax.local_device_count(), jax.device_count()),
    )


def is_writer() -> bool:
    """Whether this process writes and prints for all."""
    # Asking for the index starts the backend, which a lone process may not want yet.
    return not jax.distributed.is_initialized() or jax.process_index() == 0


def on_writer(function: Callable[[], Any]) -> Any:
    """What `function` returns on process 0, on all processes; they wait for it.

    Args:
      function: returns JSON values; tuples arrive elsewhere as lists.

    Raises:
      InputError: raised by `function`, on all processes.
    """
    if not jax.distributed.is_initialized():
        return function()
    value, error = None, None
    if is_writer():
        try:
            value = function()
        except InputError as raised:
            error = raised
    said = _tell({"value": value, "error": None if error is None else str(error)})
    if said["error"] is not None:
        raise error or InputError(said["error"])
    return value if is_writer() else said["value"]


def to_host(array: Any) -> np.ndarray:
    """The whole of an array on every process, also if its shards lie on devices of others."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        if array.is_fully_replicated:
            return np.asarray(array.addressable_data(0))
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    return np.asarray(array)


def _tell(value: Any) -> Any:
    """`value` of process 0, on all processes."""
    from jax.experimental.multihost_utils import broadcast_one_to_all

    data = json.dumps(value).encode()
    length = int(broadcast_one_to_all(np.int32(len(data))))
    padded = np.frombuffer(data[:length].ljust(length), np.uint8)
    return json.loads(np.asarray(broadcast_one_to_all(padded)).astype(np.uint8).tobytes())


def _several() -> bool:
    """Whether the environment speaks of several processes, or is a TPU machine, which may."""
    counts = (os.environ.get(name, "") for name in _COUNTS)
    return any(count.isdigit() and int(count) > 1 for count in counts) or _on_tpu()


def _on_tpu() -> bool:
    if "tpu" not in os.environ.get("JAX_PLATFORMS", "tpu"):
        return False
    if importlib.util.find_spec("libtpu") is None:  # other machines have such devices too
        return False
    return any(pathlib.Path(device).exists() for device in ("/dev/accel0", "/dev/vfio/0"))


def _described() -> dict[str, Any]:
    """Arguments for `jax.distributed.initialize` from JAX's own variables; empty without them."""
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    address, count, index = map(os.environ.get, names)
    if address is None or count is None or index is None:
        return {}
    return {
        "coordinator_address": address,
        "num_processes": int(count),
        "process_id": int(index),
    }
