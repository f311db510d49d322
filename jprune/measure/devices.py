"""How much of a device's memory was used."""

import jax


def peak_bytes(device: jax.Device) -> int | None:
    """The most memory in use since the process began; JAX cannot reset the counter.

    None where the device does not count, as CPUs.
    """
    stats = device.memory_stats() or {}
    return stats.get("peak_bytes_in_use")
