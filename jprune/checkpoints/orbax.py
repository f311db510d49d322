"""Llama pytrees as Orbax checkpoints, which keep the true structure.

A folder holds `arrays/` (an Orbax checkpoint: nested dicts under jprune's parameter names, which
Orbax alone can restore), the tokenizer's files, and the manifest `jprune.json` (see
`jprune.checkpoints.manifest`).
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from jprune.checkpoints.dtypes import target_dtype
from jprune.checkpoints.manifest import (
    ARRAYS,
    EMPTY_RECIPE,
    MANIFEST,
    check_files,
    make_manifest,
    parse_config,
    read_manifest,
)
from jprune.checkpoints.placement import SMALLER, check_room, placement, put
from jprune.checkpoints.tokenizer import write_companions
from jprune.core.errors import InputError
from jprune.core.files import PathLike, jsonable, new_dir, write_json
from jprune.core.paths import resolved
from jprune.core.processes import is_writer, together
from jprune.llama.config import LlamaConfig
from jprune.llama.kernels import Kernel, Leaf, Lora, Masked
from jprune.llama.model import Llama, Origin, Run
from jprune.llama.names import from_params, named_params
from jprune.llama.sharding import Placement


def save_orbax(path: PathLike, llama: Llama, tokenizer: Any = None, recipe: Any = None) -> None:
    """Writes `llama` as it is: removed sublayers, widths, stacks, adapters and masks included.

    Args:
      path: the folder; it appears when it is complete, in place of an earlier one.
      llama: the model, in any form.
      tokenizer: its files are put beside the arrays, see `write_companions`.
      recipe: how the model was made.
    """
    import orbax.checkpoint as ocp

    recipe = jsonable(recipe)
    stored = {name: array for name, array in named_params(llama).items() if array.size}
    try:
        with new_dir(resolved(path)) as folder:
            with ocp.StandardCheckpointer() as checkpointer:
                checkpointer.save(folder / ARRAYS, nested(stored))
            write_companions(tokenizer, folder)
            write_json(folder / "recipe.json", recipe or EMPTY_RECIPE)
            if is_writer():  # the checksums are of what all have written
                write_json(folder / MANIFEST, make_manifest(llama, recipe, folder))
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from error


def restore_orbax(path: PathLike, dtype: Any = None, *, shardings: Any = None) -> Llama:
    """The Llama that `save_orbax` wrote.

    Args:
      path: the folder.
      dtype: of the parameters, see `target_dtype`; `"checkpoint"` keeps every array's own.
      shardings: where the parameters go, see `placement.placement`; they need not be those that
        the model was saved under.

    Raises:
      InputError: not such a folder, half-written, damaged, of a newer version, or no room.
    """
    folder = resolved(path)
    # In Orbax processes wait for each other: what can go wrong in one alone comes before that.
    manifest, config, wanted, place = together(lambda: _checked(folder, dtype, shardings))
    arrays = _restore_arrays(folder, wanted, place)
    return rebuild(config, arrays, manifest["wrappers"], manifest["blocks"])


def _checked(
    folder: epath.Path, dtype: Any, shardings: Any
) -> tuple[dict[str, Any], LlamaConfig, dict[str, jax.ShapeDtypeStruct], Placement]:
    """The manifest, the config, and the arrays to restore and their places; there is room."""
    manifest = read_manifest(folder)
    config = parse_config(manifest["config"])
    wanted = {
        name: jax.ShapeDtypeStruct(tuple(entry["shape"]), _dtype(entry["dtype"], dtype))
        for name, entry in manifest["arrays"].items()
    }
    check_files(folder, manifest["files"])
    place = placement(shardings, config)
    check_room(wanted, place, folder.name)
    return manifest, config, wanted, place


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """Values by dotted name as nested dicts.

    >>> nested({"a.b": 1, "a.c": 2})
    {'a': {'b': 1, 'c': 2}}
    """
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *parents, last = name.split(".")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = value
    return tree


def _dtype(own: str, dtype: Any) -> np.dtype:
    """What to restore an array in: masks stay boolean, numbers follow `dtype`."""
    name = jnp.dtype(own)
    return target_dtype(dtype, name) if jnp.issubdtype(name, jnp.floating) else name


def _restore_arrays(folder: epath.Path, wanted: dict[str, Any], place: Placement) -> dict[str, Any]:
    import orbax.checkpoint as ocp

    # Orbax has no empty arrays: they are described in the manifest only.
    empty = {name: leaf for name, leaf in wanted.items() if not math.prod(leaf.shape)}
    stored = {
        name: _like(leaf, place(name, leaf.shape))
        for name, leaf in wanted.items()
        if name not in empty
    }
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            restored = checkpointer.restore(folder / ARRAYS, nested(stored))
    except InputError:
        raise
    except Exception as error:  # Orbax and TensorStore raise whatever their layers raise
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
            raise InputError(f"no room for {folder.name}: {reason}; {SMALLER}") from error
        raise InputError(f"{folder} is damaged: cannot restore its arrays: {reason}") from error
    arrays = {name: _at(restored, name) for name in stored}
    arrays |= {
        name: put(leaf.shape, place(name, leaf.shape), np.zeros(leaf.shape, leaf.dtype).__getitem__)
        for name, leaf in empty.items()
    }
    return arrays


def _like(leaf: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding | None) -> Any:
    """What Orbax restores an array like: a shape on devices, or an array on the host."""
    if sharding is None:
        return np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape)  # takes no memory
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def _at(tree: Any, name: str) -> Any:
    for word in name.split("."):
        tree = tree[word]
    return tree


def rebuild(
    config: LlamaConfig,
    arrays: dict[str, Leaf],
    wrappers: dict[str, Any],
    layers: list[dict[str, Any]],
) -> Llama:
    """The Llama of arrays by name, given what the manifest says of its structure."""
    params = _with_kernels(nested(arrays), "", wrappers)
    blocks = params.get("layers", {})
    # A block without either sublayer has no arrays, hence no entry of its own.
    params["layers"] = {
        str(i): blocks.get(str(i), {}).get("stacked", blocks.get(str(i), {}))
        for i in range(len(layers))
    }
    llama = from_params(config, params)
    single: Any = llama.blocks
    origins = [tuple(o and Origin(**o) for o in layer["origins"]) for layer in layers]
    parts = [
        Run(dataclasses.replace(block, origin=None), origin)
        if layer["stacked"]
        else dataclasses.replace(block, origin=origin[0])
        for block, layer, origin in zip(single, layers, origins, strict=True)
    ]
    return dataclasses.replace(llama, blocks=tuple(parts))


def _with_kernels(node: Any, name: str, wrappers: dict[str, Any]) -> Any:
    """`node` with the dicts that stand for adapters and masks turned into these."""
    if not isinstance(node, dict):
        return node
    children = {
        key: _with_kernels(child, f"{name}.{key}" if name else key, wrappers)
        for key, child in node.items()
    }
    return _kernel(children, wrappers.get(name, {}))


def _kernel(children: dict[str, Any], static: dict[str, Any]) -> "dict[str, Any] | Kernel":
    if children.keys() == {"kernel", "mask"}:
        return Masked(**children)
    if children.keys() == {"kernel", "a", "b"}:
        return Lora(**children, **static)
    return children
