"""Several processes of one run: what one of them does for all, and what all do together.

Every process runs the same program. Only process 0 writes files and prints; what it alone knows
(the state of a folder, say) it tells the others. What one of them fails in, all learn.
"""

import importlib.util
import itertools
import json
import os
import pathlib
from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np

from jprune.core.errors import InputError, unknown
from jprune.core.progress import log

T = TypeVar("T")

MODES = ("auto", "on", "off")

# Variables by which launchers tell a process how many there are.
_COUNTS = ("JAX_NUM_PROCESSES", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")

# Exchanges are counted alike in all processes.
_exchanges = itertools.count()


def initialise(mode: str) -> None:
    """Makes this process one of several, as its environment describes; see `jax.distributed`.

    Nothing of JAX may have been used before. The environment is that of Slurm, Open MPI, a Cloud
    TPU, or the variables JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. What
    SIGTERM does stays as it is.

    Args:
      mode: "on"; "off"; or "auto": on if there is a sign of more than one process.

    Raises:
      InputError: an unknown mode, or "on" where nothing says who the others are.
    """
    if mode not in MODES:
        raise unknown("value of --distributed", mode, MODES)
    if mode == "off" or jax.distributed.is_initialized() or (mode == "auto" and not _several()):
        return
    # It would take SIGTERM for itself; see `jprune.core.ending` for what is done with that.
    jax.config.update("jax_enable_preemption_service", False)
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
    """What `function` returns on process 0, on all processes; they wait for each other.

    Args:
      function: returns JSON values; tuples arrive elsewhere as lists.

    Raises:
      InputError: raised by `function`, on all processes.
    """
    if not jax.distributed.is_initialized():
        return function()
    value, told = _on_all(function if is_writer() else lambda: None, lambda value: value)
    return value if is_writer() else told[0]


def together(function: Callable[[], T]) -> T:
    """What `function` returns on this process, once it has returned on all.

    For work that may fail on some processes only, such as finding room on their devices: none goes
    on, to wait in vain for another. In `function` the same may be called again.

    Raises:
      InputError: raised by `function` on some processes, on all; the others take the first one's.
    """
    if not jax.distributed.is_initialized():
        return function()
    return _on_all(function, lambda value: None)[0]


def _on_all(function: Callable[[], T], share: Callable[[T], Any]) -> tuple[T, list[Any]]:
    """What `function` returns here, and `share` of it from all processes."""
    shared, error = None, None
    try:
        value = function()
        shared = share(value)
    except InputError as raised:
        if raised.common:
            # Nobody exchanges it again. A process that failed before it came to an exchange within
            # `function` met the others there with the exchange below: all made equally many.
            raise
        error = raised
    told = _exchange({"value": shared, "error": None if error is None else str(error)})
    for one in told:
        if one["error"] is not None:
            error = error or InputError(one["error"])
            error.common = True
            raise error
    return value, [one["value"] for one in told]


def _exchange(value: Any) -> list[Any]:
    """The JSON values of all processes, by their index; waits for those that have none yet.

    It needs no devices, and while it waits SIGTERM is heeded.
    """
    number, me = next(_exchanges), jax.process_index()
    store().key_value_set(f"jprune/exchanges/{number}/{me}", json.dumps(value))
    told = [_wait_for(f"jprune/exchanges/{number}/{i}") for i in range(jax.process_count())]
    if number:  # all have come to this exchange, so nobody reads of the last one any more
        store().key_value_delete(f"jprune/exchanges/{number - 1}/{me}")
    return [json.loads(text) for text in told]


def _wait_for(key: str) -> str:
    while True:
        try:
            return store().blocking_key_value_get(key, 1000)
        except jax.errors.JaxRuntimeError as error:
            if "DEADLINE_EXCEEDED" not in str(error):
                raise


def store() -> Any:
    """The key-value store that the first process serves to all."""
    # JAX has no public name for it; Orbax takes it from here too.
    from jax._src import distributed

    return distributed.global_state.client


def to_host(array: Any) -> np.ndarray:
    """The whole of an array on every process, also if its shards lie on devices of others."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        if array.is_fully_replicated:
            return np.asarray(array.addressable_data(0))
        from jax.experimental import multihost_utils

        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    return np.asarray(array)


def start_copying(tree: Any) -> None:
    """Begins to copy arrays to the host, for `to_host` later; the device goes on meanwhile."""
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array):
            leaf.copy_to_host_async()


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
