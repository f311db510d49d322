"""Where loaded parameters go, and whether there is room for them."""

import collections
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np

from jprune.core.errors import InputError, unknown
from jprune.core.mesh import current_mesh
from jprune.llama.config import LlamaConfig
from jprune.llama.names import named_params
from jprune.llama.sharding import Placement, on_mesh

Index = tuple[slice, ...]

# In place of a sharding: NumPy arrays, for models larger than their devices.
HOST = "host"

# What helps when a model does not fit.
SMALLER = "use a smaller dtype, a device with more memory, or a smaller model"


def placement(shardings: Any, config: LlamaConfig) -> Placement:
    """A function from a parameter's name and shape to its sharding.

    Args:
      shardings: one sharding or device for all parameters; a mesh, on which they are split by
        their logical axes; a dict by parameter name (`layers.3.self_attn.q_proj.kernel`), the
        default device for those absent; a `Llama` of shardings; "host", which is no device; or
        None, the ambient mesh (`jax.set_mesh`) and without one the default device.
      config: of the model.

    Raises:
      InputError: another word.
    """
    shardings = current_mesh() if shardings is None else shardings
    if isinstance(shardings, str):
        if shardings != HOST:
            raise unknown("value of shardings", shardings, (HOST,))
        return lambda name, shape: None
    if isinstance(shardings, jax.sharding.Mesh):
        return on_mesh(shardings, config)
    if isinstance(shardings, jax.sharding.Sharding):
        return lambda name, shape: shardings
    if shardings is None or isinstance(shardings, jax.Device):
        single = jax.sharding.SingleDeviceSharding(shardings or default_device())
        return lambda name, shape: single
    if isinstance(shardings, Mapping):
        default = jax.sharding.SingleDeviceSharding(default_device())
        return lambda name, shape: shardings.get(name, default)
    by_name = named_params(shardings)
    return lambda name, shape: by_name[name]


def put(
    shape: tuple[int, ...],
    sharding: jax.sharding.Sharding | None,
    read: Callable[[Index], np.ndarray],
) -> jax.Array | np.ndarray:
    """An array whose every part is read once and held only by the devices that it belongs to.

    Waits for the transfer, so that the host's copies can go.

    Args:
      shape: of the whole array.
      sharding: where its parts go; None for what `read` gives, on the host.
      read: gives the part at a tuple of slices.
    """
    whole = (slice(None),) * len(shape)
    if sharding is None:
        return read(whole)
    if sharding.is_fully_addressable and len(sharding.device_set) == 1:
        return jax.block_until_ready(jax.device_put(read(whole), sharding))
    parts: dict[tuple[tuple[int, int, int], ...], np.ndarray] = {}

    def part(index: Any) -> np.ndarray:
        key = tuple(
            one.indices(size) for one, size in zip(index, shape, strict=True)
        )  # slices themselves are not hashable before Python 3.12
        if key not in parts:
            parts[key] = read(index)
        return parts[key]

    return jax.block_until_ready(jax.make_array_from_callback(shape, sharding, part))


def default_device() -> jax.Device:
    """The device that new arrays go to."""
    device = getattr(jax.config, "jax_default_device", None)
    return device if isinstance(device, jax.Device) else jax.local_devices()[0]


def check_room(
    wanted: Mapping[str, jax.ShapeDtypeStruct],
    place: Placement,
    what: str,
) -> None:
    """Raises InputError, with the estimate, if parameters do not fit on their devices.

    Devices that do not report their memory (CPUs) are not checked.
    """
    parts = [(leaf, place(name, leaf.shape)) for name, leaf in wanted.items()]
    for device, size in _held(parts).items():
        if device.process_index != jax.process_index():
            continue
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


def bytes_per_device(tree: Any, place: Placement | None = None) -> int:
    """The bytes that the arrays of a tree take on the fullest device.

    Args:
      tree: arrays, or a Llama of shapes.
      place: where shapes would go; arrays know it.
    """
    if place is None:
        # NumPy arrays have none.
        parts = [(leaf, getattr(leaf, "sharding", None)) for leaf in jax.tree.leaves(tree)]
    else:
        parts = [(leaf, place(name, leaf.shape)) for name, leaf in named_params(tree).items()]
    return max(_held(parts).values(), default=0)


def _held(
    parts: Iterable[tuple[Any, jax.sharding.Sharding | None]],
) -> collections.Counter[jax.Device]:
    """The bytes that arrays or shapes take on every device."""
    held: collections.Counter[jax.Device] = collections.Counter()
    for leaf, sharding in parts:
        if sharding is None:
            continue
        size = math.prod(sharding.shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize
        held.update(dict.fromkeys(sharding.device_set, size))
    return held
