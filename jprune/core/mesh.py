"""Device meshes and the placement of logical axes on them.

The mesh is ambient: `use_mesh` sets it for a block of code, and functions inside ask JAX for it
instead of passing it on. Without a mesh everything runs on one device, as if this module were not.
"""

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from jprune.core.errors import InputError, unknown
from jprune.core.progress import log

# Outermost first: tensor parallelism talks most and so gets the neighbouring devices.
MESH_AXES = ("data", "fsdp", "tensor")

# Logical axis of an array -> mesh axes it is split over (None: never split).
Rules = Mapping[str, str | tuple[str, ...] | None]
RULES: Rules = {
    "batch": ("data", "fsdp"),
    "length": None,
    "layers": None,
    "vocab": "tensor",
    "hidden": "fsdp",
    "heads": "tensor",
    "kv_heads": "tensor",
    "head_dim": None,
    "mlp": "tensor",
}


def parse_mesh(text: str, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh that "data:2,fsdp:4,tensor:1" describes, over all devices.

    Axes left out have size 1, so that every mesh has all of `MESH_AXES`; one size may be -1, "all
    that is left". The empty text puts every device on the data axis.

    Raises:
        InputError: a malformed or unknown axis, or sizes whose product is not the device count.
    """
    devices = list(jax.devices()) if devices is None else list(devices)
    sizes = {axis: 1 for axis in MESH_AXES} | _parse_sizes(text or "data:-1")
    known = math.prod(size for size in sizes.values() if size > 0)
    for axis, size in sizes.items():
        if size == -1:
            sizes[axis] = max(1, len(devices) // known)
    if math.prod(sizes.values()) != len(devices):
        raise InputError(
            f"mesh {text!r} needs {math.prod(sizes.values())} devices but {len(devices)} are there;"
            " make the product of the sizes equal to the number of devices"
        )
    return jax.make_mesh(
        tuple(sizes.values()),
        MESH_AXES,
        axis_types=(AxisType.Auto,) * len(MESH_AXES),
        devices=devices,
    )


def partition_spec(
    axes: Sequence[str | None],
    shape: Sequence[int],
    mesh: Mesh | AbstractMesh,
    rules: Rules = RULES,
    name: str = "array",
) -> PartitionSpec:
    """How an array with these logical `axes` lies on `mesh`.

    An axis that the mesh axis does not divide, or whose mesh axis an earlier axis of the array
    already uses, is replicated; the former is logged.

    Args:
        axes: one logical axis per dimension; None is never split.
        shape: the array's shape.
        mesh: the devices.
        rules: logical axis to mesh axis or axes.
        name: the array's name in the log; without one nothing is logged.

    Raises:
        InputError: a logical axis that `rules` does not know.
    """
    if len(axes) != len(shape):
        raise ValueError(f"{name}: {len(axes)} axes for an array of {len(shape)} dimensions")
    used: set[str] = set()
    spec: list[tuple[str, ...] | None] = []
    for axis, size in zip(axes, shape, strict=True):
        targets = tuple(t for t in _targets(axis, rules, mesh) if t not in used)
        parts = math.prod(mesh.shape[t] for t in targets)
        if parts == 1:
            spec.append(None)
        elif size % parts:
            if name:
                log.info(
                    "%s: axis %s of size %d is replicated: %d devices (%s) do not divide it",
                    *(name, axis, size, parts, "x".join(targets)),
                )
            spec.append(None)
        else:
            used.update(targets)
            spec.append(targets)
    return PartitionSpec(*(t[0] if t and len(t) == 1 else t for t in spec))


@contextlib.contextmanager
def use_mesh(mesh: Mesh | str | None) -> Iterator[None]:
    """Runs a block on the devices of a mesh, or of what `parse_mesh` makes of a text.

    None is all devices of all processes on the axis fsdp where there are several processes, and
    the default device, without a mesh, where there is one. A mesh of one device is none.

    Raises:
        InputError: see `parse_mesh`.
    """
    if mesh is None and jax.distributed.is_initialized() and jax.process_count() > 1:
        mesh = "fsdp:-1"
    if isinstance(mesh, str):
        mesh = parse_mesh(mesh)
    if mesh is None or mesh.size == 1:
        yield
        return
    with jax.set_mesh(mesh):
        yield


def current_mesh() -> Mesh | None:
    """The ambient mesh, outside jitted functions; None without one."""
    mesh = jax.sharding.get_mesh()
    return None if mesh.empty else mesh


def batch_parts() -> int:
    """Over how many groups of devices the ambient mesh splits a batch."""
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape[axis] for axis in _targets("batch", RULES, mesh))


def constrain(x: Array, *axes: str | None) -> Array:
    """`x`, in a jitted function, laid out by its logical `axes`; without a mesh `x` itself.

    An axis that does not divide is left whole, without a word: `x` is no parameter.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    spec = partition_spec(axes, x.shape, mesh, name="")
    return jax.lax.with_sharding_constraint(x, spec)


def batch_sharding(shape: Sequence[int], axis: int = 0) -> NamedSharding | None:
    """How an array lies on the ambient mesh whose `axis` is the batch; None without a mesh."""
    mesh = current_mesh()
    if mesh is None:
        return None
    axes = ["batch" if place == axis else None for place in range(len(shape))]
    return NamedSharding(mesh, partition_spec(axes, shape, mesh, name=""))


def put_batch(batch: np.ndarray) -> Array | np.ndarray:
    """A batch that every process has, its first axis split over the ambient mesh."""
    sharding = batch_sharding(batch.shape)
    if sharding is None:
        return batch
    return jax.make_array_from_callback(batch.shape, sharding, batch.__getitem__)


def paced(x: Any) -> Any:
    """`x`, waited for where the mesh is of simulated devices.

    Those share one pool of threads: with many programs in flight, each waiting for parts of the
    others, they end in a deadlock. Real devices take their programs in order, each by itself.
    """
    mesh = current_mesh()
    return jax.block_until_ready(x) if mesh and mesh.devices.flat[0].platform == "cpu" else x


def _parse_sizes(text: str) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for item in text.split(","):
        if not item.strip():
            raise InputError(f"mesh {text!r} has an empty part; write it as in 'data:2,fsdp:4'")
        axis, colon, size = (part.strip() for part in item.partition(":"))
        if axis not in MESH_AXES:
            raise unknown("mesh axis", axis, MESH_AXES)
        if axis in sizes:
            raise InputError(f"mesh {text!r} names the axis {axis} twice")
        try:
            sizes[axis] = int(size) if colon else 0
        except ValueError:
            sizes[axis] = 0
        if sizes[axis] < 1 and sizes[axis] != -1:
            raise InputError(f"mesh {text!r}: give {axis} a size, as in '{axis}:2'")
    if list(sizes.values()).count(-1) > 1:
        raise InputError(f"mesh {text!r}: only one size can be -1")
    return sizes


def _targets(axis: str | None, rules: Rules, mesh: Mesh | AbstractMesh) -> tuple[str, ...]:
    if axis is None:
        return ()
    if axis not in rules:
        raise unknown("logical axis", axis, rules)
    targets = rules[axis]
    targets = (targets,) if isinstance(targets, str) else targets or ()
    return tuple(target for target in targets if target in mesh.shape)
