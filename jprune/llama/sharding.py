"""How the parameters of a model lie on a mesh of devices."""

import functools
import re
from collections.abc import Callable

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jprune.core.mesh import partition_spec
from jprune.llama.config import LlamaConfig
from jprune.llama.names import named_params
from jprune.llama.params import ParamSpec, llama_spec

_LAYER = re.compile(r"^layers\.\d+\.(stacked\.)?")
# An axis of so many heads is split between heads, never within one.
_HEADS = ("heads", "kv_heads")

# None is the host: a NumPy array.
Placement = Callable[[str, tuple[int, ...]], jax.sharding.Sharding | None]


def on_mesh(mesh: Mesh, config: LlamaConfig) -> Placement:
    """From a parameter's name and shape to its sharding on `mesh`.

    Kernels are split by the logical axes that `jprune.llama.params` declares. The factors of an
    adapter follow the axis that they share with their kernel, a mask follows all of them.
    """

    def place(name: str, shape: tuple[int, ...]) -> NamedSharding:
        return NamedSharding(mesh, _spec(_LAYER.sub("layers.*.", name), shape, mesh, config))

    return place


def logical_axes(name: str, config: LlamaConfig) -> tuple[str | None, ...]:
    """The logical axes of a parameter of a single block or of the model's ends, by its name.

    >>> logical_axes("layers.3.self_attn.q_proj.kernel", config)
    ('hidden', 'heads')

    Raises:
      KeyError: no such parameter.
    """
    stem = _LAYER.sub("layers.0.", name.replace("layers.*.", "layers.0."))
    declared = _declared(config)
    if stem in declared:
        return declared[stem].axes
    # An adapter or a mask wraps the kernel: layers.0.mlp.up_proj.kernel.kernel.a
    kernel, _, leaf = stem.rpartition(".")
    while kernel not in declared:
        kernel, _, _ = kernel.rpartition(".")
        if not kernel:
            raise KeyError(name)
    rows, columns = declared[kernel].axes
    return {"a": (rows, None), "b": (None, columns)}.get(leaf, (rows, columns))


@functools.cache
def _declared(config: LlamaConfig) -> dict[str, ParamSpec]:
    return named_params(llama_spec(config, num_layers=1))


@functools.cache  # so that each kind of parameter is logged once, not once a layer
def _spec(name: str, shape: tuple[int, ...], mesh: Mesh, config: LlamaConfig) -> PartitionSpec:
    axes = logical_axes(name, config)
    axes = (*("layers" for _ in range(len(shape) - len(axes))), *axes)
    sizes = [
        size // config.head_dim if axis in _HEADS else size
        for axis, size in zip(axes, shape, strict=True)
    ]
    return partition_spec(axes, sizes, mesh, name=name)
