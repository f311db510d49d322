"""Where loaded parameters go, and whether there is room for them."""

import collections
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jprune.core.errors import InputError
from jprune.llama.names import leaf_name

# What helps when a model does not fit.
SMALLER = "use a smaller dtype, a device with more memory, or a smaller model"


def by_name(shardings: Any) -> Callable[[str], jax.sharding.Sharding]:
    """A function from a parameter's name to its sharding.

    Args:
      shardings: one sharding or device for all parameters; a dict by parameter name
        (`layers.3.self_attn.q_proj.kernel`), the default device for those absent; a `Llama` of
        shardings; or None, the default device for all.
    """
    if isinstance(shardings, jax.sharding.Sharding):
        return lambda name: shardings
    if shardings is None or isinstance(shardings, jax.Device):
        single = jax.sharding.SingleDeviceSharding(shardings or default_device())
        return lambda name: single
    if isinstance(shardings, Mapping):
        default = jax.sharding.SingleDeviceSharding(default_device())
        return lambda name: shardings.get(name, default)
    leaves, _ = jax.tree_util.tree_flatten_with_path(shardings)
    return {leaf_name(path): leaf for path, leaf in leaves}.__getitem__


def default_device() -> jax.Device:
    """The device that new arrays go to."""
    device = getattr(jax.config, "jax_default_device", None)
    return device if isinstance(device, jax.Device) else jax.local_devices()[0]


def check_room(
    wanted: Mapping[str, jax.ShapeDtypeStruct],
    sharding: Callable[[str], jax.sharding.Sharding],
    what: str,
) -> None:
    """Raises InputError, with the estimate, if parameters do not fit on their devices.

    Devices that do not report their memory (CPUs) are not checked.
    """
    needed: collections.Counter[jax.Device] = collections.Counter()
    for name, leaf in wanted.items():
        place = sharding(name)
        size = math.prod(place.shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize
        needed.update(dict.fromkeys(place.addressable_devices, size))
    for device, size in needed.items():
        free = free_bytes(device)
        if free is not None and size > free:
            raise InputError(
                f"no room for {what}: its parameters take {size / 1e9:.2f} GB on {device}, "
                f"which has {free / 1e9:.2f} GB free; {SMALLER}"
            )


def free_bytes(device: jax.Device) -> int | None:
    """How many bytes of a device of this process are free, or None if it does not say (CPUs)."""
    stats = device.memory_stats() or {}
    if "bytes_limit" not in stats:
        return None
    return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
