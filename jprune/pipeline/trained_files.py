"""What training changed of a model, as files beside the recipe: factors of adapters, or weights."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jprune.checkpoints.mask_files import store
from jprune.core.files import PathLike
from jprune.core.processes import to_host
from jprune.llama.kernels import Lora, Masked, fold_kernels
from jprune.llama.linears import linear_kernels
from jprune.llama.masks import Mask, pack
from jprune.llama.model import Llama
from jprune.llama.names import leaf_name
from jprune.llama.stack import single_blocks
from jprune.transforms import Transform, lora_weights, trained_weights

_END = "end"  # of the model: what is in no block


def store_adapters(folder: PathLike, llama: Llama) -> Transform:
    """Keeps the adapters of a model, and the masks above them, a file for each block.

    Returns:
      The step that adds them to the model without adapters.
    """
    digests, scales = [], set()
    for index, block in enumerate(single_blocks(llama)):
        factors: dict[str, np.ndarray] = {}
        masks: dict[str, Mask] = {}
        for name, kernel in linear_kernels(block).items():
            full = f"layers.{index}.{name}.kernel"
            lora = kernel.kernel if isinstance(kernel, Masked) else kernel
            if not isinstance(lora, Lora):
                continue
            scales.add(lora.scale)
            factors |= {f"{full}.a": to_host(lora.a), f"{full}.b": to_host(lora.b)}
            if isinstance(kernel, Masked):
                masks[full] = pack(np.asarray(to_host(kernel.mask)))
        digests.append(store(folder, masks, factors))
    (scale,) = scales  # add_lora gives one to all
    return lora_weights(digests, scale, arrays=str(folder))


def store_weights(folder: PathLike, llama: Llama, last: int | None, dtype: np.dtype) -> Transform:
    """Keeps the parameters of a model that trained, a file for each block and one for the rest.

    Args:
      folder: of the files.
      llama: the trained model; what is under false masks is kept as zero.
      last: only so many of the last blocks, the final norm and the head trained; None: everything.
      dtype: of the files.

    Returns:
      The step that puts them in place of those of the model as it was before.
    """
    digests = []
    for part, parameters in _parts(llama):
        if last is not None:
            if part == _END:
                parameters.pop("embed_tokens.embedding", None)
            elif int(part) < llama.num_layers - last:
                continue
        found = {name: np.asarray(to_host(x)).astype(dtype) for name, x in parameters.items()}
        digests.append(store(folder, {}, found))
    return trained_weights(digests, arrays=str(folder))


def _parts(llama: Llama) -> Iterator[tuple[str, dict[str, jax.Array]]]:
    """The parameters of every block by name, and those of no block, in the plain form."""
    for index, block in enumerate(single_blocks(llama)):
        yield str(index), _named(block, f"layers.{index}.")
    yield _END, _named(dataclasses.replace(llama, blocks=()))


def _named(tree: Any, prefix: str = "") -> dict[str, jax.Array]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(fold_kernels(tree))
    numbers = ((path, x) for path, x in leaves if jnp.issubdtype(x.dtype, jnp.floating))
    return {prefix + leaf_name(path): leaf for path, leaf in numbers}
