"""Hugging Face checkpoints into Llama pytrees, tensor by tensor."""

import collections
import concurrent.futures
import dataclasses
import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jprune.checkpoints import hf_names
from jprune.checkpoints.dtypes import PARAMETER_DTYPES, as_dtype, target_dtype
from jprune.checkpoints.hf_config import parse_config, stored_dtype
from jprune.checkpoints.placement import Index, check_room, placement, put
from jprune.checkpoints.safetensors_io import (
    StoredTensor,
    parameter_dtype,
    read_headers,
    read_tensor,
)
from jprune.core.errors import InputError
from jprune.core.files import PathLike, as_path
from jprune.core.progress import log, progress
from jprune.llama.config import LlamaConfig
from jprune.llama.model import Llama
from jprune.llama.names import leaf_name
from jprune.llama.params import abstract

CONFIG = "config.json"

# Smaller checkpoints are read before anybody could look at a progress line.
_PROGRESS_BYTES = 500_000_000
_READERS = 8


def import_huggingface(
    folder: PathLike,
    dtype: Any = None,
    *,
    shardings: Any = None,
    source: str | None = None,
) -> Llama:
    """The Llama in a folder with config.json and safetensors, single or sharded.

    Headers and sizes of all files, names, shapes and dtypes are checked before any data is read.
    Then each tensor is read, transposed to [in, out], cast, put on its devices and released: the
    host holds one tensor beyond the devices' copies, and each device gets only its part. With
    shardings "host" nothing is read: parameters are views of the mapped files, which must stay as
    they are, but for those that are cast (or come from a store), which are copies.

    Args:
      folder: the checkpoint.
      dtype: of the parameters, see `target_dtype`. With `"checkpoint"` they are loaded bit for
        bit unless the checkpoint mixes dtypes: a model has one, and the log says what is cast.
      shardings: where the parameters go, see `placement.placement`; by default the
        ambient mesh or the default device.
      source: name of the model for the blocks' origins; by default the folder's.

    Raises:
      InputError: anything wrong with the files, naming file and tensor, or no room on a device.
    """
    folder = as_path(folder)
    stored = known_tensors(read_headers(folder))
    config, num_layers = read_config(folder)
    config = with_true_tie(config, stored, folder)
    own = own_dtype(config, stored)
    source = source or folder.name
    target = target_dtype(dtype, own)
    model = abstract(config, num_layers, target, source=source)
    leaves, treedef = jax.tree_util.tree_flatten_with_path(model)
    wanted = {leaf_name(path): leaf for path, leaf in leaves}
    check_tensors(stored, wanted, num_layers, folder)
    place = placement(shardings, config)
    check_room(wanted, place, source)
    if target == own:  # any other dtype was asked for
        _log_casts(stored, target, source)

    def read(item: tuple[str, jax.ShapeDtypeStruct]) -> jax.Array | np.ndarray:
        name, leaf = item
        return _load(stored[hf_names.tensor_name(name)], name, leaf, place(name, leaf.shape))

    # Transposing keeps a core busy; the host holds no more than one tensor for each reader.
    with concurrent.futures.ThreadPoolExecutor(min(_READERS, os.cpu_count() or 1)) as pool:
        arrays = pool.map(read, wanted.items())
        if sum(tensor.end - tensor.start for tensor in stored.values()) > _PROGRESS_BYTES:
            arrays = progress(arrays, f"loading {source}", total=len(wanted), unit="tensor")
        return jax.tree_util.tree_unflatten(treedef, list(arrays))


def read_config(folder: PathLike) -> tuple[LlamaConfig, int]:
    """The hyperparameters and the number of layers from a folder's config.json."""
    file = as_path(folder) / CONFIG
    try:
        text = file.read_text()
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"no such file: {file}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {file}: {error}") from None
    return parse_config(text, str(file))


def own_dtype(config: LlamaConfig, stored: Mapping[str, StoredTensor]) -> np.dtype:
    """The dtype of a checkpoint: what its config names, else what most of its bytes have."""
    named = stored_dtype(config)
    if named in PARAMETER_DTYPES:
        return as_dtype(named)
    sizes: collections.Counter[np.dtype] = collections.Counter()
    for tensor in stored.values():
        sizes[parameter_dtype(tensor)] += tensor.end - tensor.start
    most = max(sizes, key=sizes.__getitem__)
    return most if most.name in PARAMETER_DTYPES else as_dtype("float32")


def check_tensors(
    stored: Mapping[str, StoredTensor],
    wanted: Mapping[str, jax.ShapeDtypeStruct],
    num_layers: int,
    where: PathLike,
) -> None:
    """Checks that the stored tensors are exactly the wanted parameters.

    Raises InputError for layers beyond `num_layers`, missing and unexpected tensors, shapes other
    than the config implies, and dtypes that parameters cannot have.
    """
    for name, tensor in stored.items():
        layer = hf_names.layer_index(name)
        if layer is not None and layer >= num_layers:
            raise InputError(
                f"tensor {name} in {tensor.file} belongs to layer {layer}, "
                f"but {CONFIG} says num_hidden_layers {num_layers}"
            )
    expected = {
        hf_names.tensor_name(name): hf_names.tensor_shape(name, leaf.shape)
        for name, leaf in wanted.items()
    }
    for name, shape in expected.items():
        if name not in stored:
            raise InputError(f"tensor {name} is missing in {where}")
        tensor = stored[name]
        parameter_dtype(tensor)
        if tensor.shape != shape:
            raise InputError(
                f"tensor {name} in {tensor.file} has shape {list(tensor.shape)}, "
                f"expected {list(shape)} by {CONFIG}"
            )
    extra = [name for name in stored if name not in expected]
    if extra:
        raise InputError(
            f"unexpected tensor {extra[0]} in {stored[extra[0]].file}: "
            f"a model with this {CONFIG} does not have it"
        )


def _log_casts(stored: Mapping[str, StoredTensor], target: np.dtype, what: str) -> None:
    """Says which tensors are not of the dtype that their checkpoint goes by."""
    found = collections.Counter(parameter_dtype(tensor).name for tensor in stored.values())
    others = [f"{number} of {name}" for name, number in found.most_common() if name != target.name]
    if others:
        log.warning(
            "%s mixes dtypes: of its %d tensors, %s are cast to %s",
            what,
            len(stored),
            " and ".join(others),
            target.name,
        )


def known_tensors(stored: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Those of the stored tensors that are parameters, not buffers that some exports hold."""
    return {name: tensor for name, tensor in stored.items() if not hf_names.is_ignored(name)}


def with_true_tie(
    config: LlamaConfig, stored: dict[str, StoredTensor], folder: PathLike
) -> LlamaConfig:
    """`config` with the tie flag that the tensors show; a redundant copy is taken from `stored`.

    As in transformers, a tied pair of which only one tensor is stored is that tensor, and one with
    two different tensors is not tied.
    """
    head, embedding = stored.get(hf_names.LM_HEAD), stored.get(hf_names.EMBEDDING)
    tied = config.tie_word_embeddings
    if tied and head and not embedding:
        stored[hf_names.EMBEDDING] = head
    if head is None and embedding and not tied:
        log.warning("%s has no %s: taking the head as tied", folder, hf_names.LM_HEAD)
    if tied and head and embedding and not _equal(head, embedding):
        log.warning("%s is tied by its config, but its head differs: not tying it", folder)
        return dataclasses.replace(config, tie_word_embeddings=False)
    if tied:
        stored.pop(hf_names.LM_HEAD, None)
    return dataclasses.replace(config, tie_word_embeddings=tied or head is None)


def _equal(a: StoredTensor, b: StoredTensor) -> bool:
    return a.shape == b.shape and np.array_equal(read_tensor(a), read_tensor(b))


def _load(
    tensor: StoredTensor,
    name: str,
    leaf: jax.ShapeDtypeStruct,
    sharding: jax.sharding.Sharding | None,
) -> jax.Array | np.ndarray:
    """One parameter on its devices, each of which gets its part and no more."""
    transpose = hf_names.is_transposed(name)
    values = read_tensor(tensor)  # mapped, not read, where the file is local
    if sharding is None and values.dtype == leaf.dtype:
        return values.T if transpose else values

    def read(index: Index) -> np.ndarray:
        part = values[index[::-1] if transpose else index]
        return hf_names.convert(part, leaf.dtype, transpose=transpose)

    return put(leaf.shape, sharding, read)
