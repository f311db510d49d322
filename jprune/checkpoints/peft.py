"""PEFT LoRA adapters: read, checked against their base, and put on its kernels.

An adapter folder holds adapter_config.json, which names the base, and adapter_model.safetensors
with `base_model.model.MODULE.lora_A.weight` [r, in] and `...lora_B.weight` [out, r]. jprune stores
kernels [in, out], so that a = lora_A^T and b = lora_B^T.

Reference: Hu et al., LoRA (arXiv 2106.09685).
"""

import collections
import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import numpy as np
from etils import epath
from jax.sharding import NamedSharding, PartitionSpec

from jprune.checkpoints import hf_names
from jprune.checkpoints.peft_config import ADAPTER_CONFIG, MERGE, LoraSettings, read_settings
from jprune.checkpoints.placement import put
from jprune.checkpoints.safetensors_io import (
    StoredTensor,
    parameter_dtype,
    read_header,
    read_tensor,
)
from jprune.core.errors import InputError
from jprune.llama.kernels import Kernel, Lora, Masked, fold
from jprune.llama.model import Linear, Llama
from jprune.llama.names import leaf_name
from jprune.llama.stack import unstack

ADAPTER = "adapter_model.safetensors"
Adapters = Literal["fold", "keep"]

_LORA = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<side>[AB])\.weight")


@dataclasses.dataclass(frozen=True)
class Pair:
    """The stored factors of one module: lora_A [r, in] and lora_B [out, r]."""

    a: StoredTensor
    b: StoredTensor


@dataclasses.dataclass(frozen=True)
class Adapter:
    """An adapter on disk, its factors by the name of the module that they update."""

    folder: epath.Path
    settings: LoraSettings
    pairs: Mapping[str, Pair]


def read_adapter(folder: epath.Path) -> Adapter:
    """The adapter in a folder; its header is read, its tensors are not.

    Raises:
      InputError: anything but complete pairs of factors in a valid file.
    """
    settings = read_settings(folder)
    file = folder / ADAPTER
    if not file.exists():
        raise InputError(_no_tensors(folder))
    sides: dict[str, dict[str, StoredTensor]] = collections.defaultdict(dict)
    for name, tensor in read_header(file).items():
        match = _LORA.fullmatch(name)
        if match is None:
            raise InputError(f"{_what_else(name)} ({name} in {file}); {MERGE}")
        parameter_dtype(tensor)
        sides[match["module"]][match["side"]] = tensor
    if not sides:
        raise InputError(f"{file} holds no tensors; save the adapter again")
    for module, found in sides.items():
        if len(found) == 1:
            missing = "A" if "B" in found else "B"
            raise InputError(
                f"tensor base_model.model.{module}.lora_{missing}.weight is missing in {file}, "
                f"which has the other half of the pair; save the adapter again"
            )
    pairs = {module: Pair(found["A"], found["B"]) for module, found in sides.items()}
    return Adapter(folder, settings, pairs)


def check_fits(adapter: Adapter, base: Llama, name: str) -> None:
    """Raises InputError, naming the difference, if an adapter is of another base or rank.

    Args:
      adapter: with factors for some modules of `base`.
      base: the model, or one of shapes.
      name: of the base, for messages.
    """
    linears = _linears(base)
    for module, pair in adapter.pairs.items():
        if module not in linears:
            raise InputError(_no_module(module, pair.a, base, name))
        rows, columns = _plain(linears[module].kernel).shape
        rank = adapter.settings.rank(module)
        for tensor, shape, at in ((pair.a, (rank, rows), 1), (pair.b, (columns, rank), 0)):
            if len(tensor.shape) != 2 or tensor.shape[at] != shape[at]:
                raise InputError(
                    f"tensor {tensor.name} in {tensor.file} has shape {list(tensor.shape)}, "
                    f"expected {list(shape)} for rank {rank} on base {name}, whose weight is "
                    f"{[columns, rows]}: {_edit(adapter.folder)}"
                )
        ranks = {pair.a.shape[0], pair.b.shape[1]}
        if ranks != {rank}:
            raise InputError(_other_rank(adapter, module, sorted(ranks)))


def attach(adapter: Adapter, base: Llama, adapters: Adapters) -> Llama:
    """`base` with the adapter on its kernels.

    Args:
      adapter: one that fits, see `check_fits`.
      base: the model; its arrays are given up, kernel by kernel.
      adapters: "fold" adds scale * a @ b to each kernel in float32 and rounds once to the dtype
        of the kernel; "keep" makes it a `Lora`. The factors keep their stored dtype and are
        replicated over the kernel's devices.

    Under the mask of a `Masked` kernel the adapter goes below the mask, and an adapter that the
    base holds already is folded first.
    """
    settings = adapter.settings

    def update(module: str, linear: Linear) -> Linear:
        pair = adapter.pairs.get(module)
        if pair is None:
            return linear
        below = functools.partial(
            _with_factors,
            pair=pair,
            scale=settings.scale(module),
            dropout=settings.dropout,
            keep=adapters == "keep",
        )
        return dataclasses.replace(linear, kernel=_on_plain(linear.kernel, below))

    return _map_linears(update, unstack(base, consume=True))


def _with_factors(kernel: Any, *, pair: Pair, scale: float, dropout: float, keep: bool) -> Any:
    sharding = None if isinstance(kernel, np.ndarray) else kernel.sharding
    a, b = _factor(pair.a, sharding), _factor(pair.b, sharding)
    if keep:
        return Lora(kernel, a, b, scale, dropout)
    folded = _folding(scale, sharding)(kernel, a, b)
    return np.asarray(folded) if sharding is None else folded


@functools.lru_cache(maxsize=64)
def _folding(scale: float, sharding: jax.sharding.Sharding | None) -> Callable[..., jax.Array]:
    """W + scale * a @ b in the place of W."""

    def folded(kernel: Any, a: Any, b: Any) -> Any:
        return fold(Lora(kernel, a, b, scale))

    return jax.jit(folded, out_shardings=sharding, donate_argnums=0)


def _factor(tensor: StoredTensor, sharding: jax.sharding.Sharding | None) -> jax.Array | np.ndarray:
    """The transpose of a stored factor, whole on every device of a kernel."""
    if isinstance(sharding, NamedSharding):
        sharding = NamedSharding(sharding.mesh, PartitionSpec())
    values = read_tensor(tensor)
    whole = hf_names.convert(values, values.dtype, transpose=True)
    return put(whole.shape, sharding, whole.__getitem__)


def _on_plain(kernel: Kernel, below: Callable[[Any], Any]) -> Kernel:
    """`kernel` with the plain array at its bottom given to `below`."""
    if isinstance(kernel, Masked):
        return dataclasses.replace(kernel, kernel=_on_plain(kernel.kernel, below))
    on_host = isinstance(_plain(kernel), np.ndarray)
    return below(np.asarray(fold(kernel)) if on_host else fold(kernel))


def _plain(kernel: Kernel) -> Any:
    """The array, or its shape, at the bottom of a kernel."""
    return _plain(kernel.kernel) if isinstance(kernel, Lora | Masked) else kernel


def _linears(llama: Llama) -> dict[str, Linear]:
    """The linear maps of a model by the name of their module in Hugging Face's model."""
    found: dict[str, Linear] = {}
    _map_linears(lambda module, linear: found.setdefault(module, linear), _unstacked_shapes(llama))
    return found


def _map_linears(function: Callable[[str, Linear], Linear], llama: Llama) -> Llama:
    """`llama` with every linear map replaced by what `function` makes of its module and itself."""

    def visit(path: tuple, node: Any) -> Any:
        if not isinstance(node, Linear):
            return node
        name = hf_names.tensor_name(f"{leaf_name(path)}.kernel")
        return function(name.removesuffix(".weight"), node)

    return jax.tree_util.tree_map_with_path(visit, llama, is_leaf=lambda x: isinstance(x, Linear))


def _unstacked_shapes(llama: Llama) -> Llama:
    return jax.eval_shape(unstack, llama)


def _no_module(module: str, tensor: StoredTensor, base: Llama, name: str) -> str:
    """The message for factors of a module that the base does not have."""
    where = f"tensor {tensor.name} in {tensor.file}"
    layer = hf_names.layer_index(f"{module}.")
    if module == "lm_head" and base.lm_head is None:
        return f"{where} updates lm_head, which base {name} ties to its embedding; {MERGE}"
    edit = _edit(tensor.file.parent)
    if layer is not None and layer >= base.num_layers:
        return f"{where} updates layer {layer}, but base {name} has {base.num_layers}: {edit}"
    return f"{where} updates {module}, which base {name} does not have: {edit}"


def _other_rank(adapter: Adapter, module: str, ranks: Sequence[int]) -> str:
    """The message for factors that fit the base, but are of other ranks than the settings say."""
    tensor, file = adapter.pairs[module].a, adapter.folder / ADAPTER_CONFIG
    where = f"the factors of {module} in {tensor.file} have"
    if len(ranks) > 1:
        return f"{where} ranks {ranks[0]} and {ranks[1]}; save or download the adapter again"
    return (
        f"{where} rank {ranks[0]}, but {file} says {adapter.settings.rank(module)}: set r there to "
        f"{ranks[0]}, or rank_pattern if that is the rank of some modules only"
    )


def _edit(folder: epath.Path) -> str:
    file = folder / ADAPTER_CONFIG
    return f"set base_model_name_or_path in {file} to the model it was trained on"


def _what_else(tensor: str) -> str:
    """What a tensor is that is no factor of a kernel's update."""
    if "lora_embedding_" in tensor or "embed_tokens.lora_" in tensor:
        return "adapters of embeddings are not supported"
    if "lora_magnitude_vector" in tensor:
        return "use_dora: DoRA adapters are not supported"
    if tensor.endswith(".bias"):
        return "bias: adapters with biases of their own are not supported"
    if ".lora_" in tensor:
        return "this kind of adapter is not supported"
    return "modules_to_save: adapters with whole weights beside the factors are not supported"


def _no_tensors(folder: epath.Path) -> str:
    message = f"{folder} has {ADAPTER_CONFIG} but no {ADAPTER}"
    if (folder / "adapter_model.bin").exists():
        return (
            f"{message}, only adapter_model.bin; save it again in peft with "
            "save_pretrained(..., safe_serialization=True)"
        )
    return f"{message}; copy or download it again"
