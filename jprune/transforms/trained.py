"""Weights that came out of training, from files: adapters added up, or parameters replaced."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jprune.checkpoints.mask_files import fetch
from jprune.core.errors import InputError
from jprune.core.files import PathLike
from jprune.llama.kernels import Leaf, Lora, Masked, fold, is_kernel, kernel_shape
from jprune.llama.linears import linear_kernels, with_kernels
from jprune.llama.masks import Mask, unpack
from jprune.llama.model import Block, Llama
from jprune.llama.names import leaf_name
from jprune.llama.stack import single_blocks, unstack
from jprune.transforms.stored import in_place_of, with_blocks
from jprune.transforms.transform import transform


@transform
def lora_weights(
    blocks: Sequence[str], scale: float, *, arrays: PathLike = "."
) -> Callable[[Llama], Llama]:
    """W + scale * a b with the factors of trained adapters, and zeros under the masks they had.

    The sum is taken in float32 and rounded once to the dtype of W.

    Reference: Hu et al., LoRA (arXiv 2106.09685), section 4.1.

    Args:
      blocks: for each block the SHA-256 of a file with its factors, `KERNEL.a` [in, rank] and
        `KERNEL.b` [rank, out], and the masks under which they were trained; see
        `jprune.checkpoints.mask_files`.
      scale: alpha / rank.
      arrays: the folder with these files; no part of the recipe.

    Raises:
      InputError: files that are missing or damaged, or do not fit the model.
    """

    def apply(llama: Llama) -> Llama:
        if len(blocks) != llama.num_layers:
            raise InputError(
                f"the recipe has adapters of {len(blocks)} blocks, the model has {llama.num_layers}"
            )
        updated = []  # one after the other: only one block's files are in memory
        for index, (digest, block) in enumerate(zip(blocks, single_blocks(llama), strict=True)):
            masks, factors = fetch(arrays, digest)
            updated.append(_updated(block, f"layers.{index}.", masks, factors, scale))
        return with_blocks(llama, updated)

    return apply


@transform
def trained_weights(files: Sequence[str], *, arrays: PathLike = ".") -> Callable[[Llama], Llama]:
    """Parameters that were trained, in place of those of the model; others stay as they are.

    Args:
      files: SHA-256 of files with parameters by the names that `jprune.llama.names` gives to those
        of single blocks without masks and adapters: `layers.3.self_attn.q_proj.kernel`.
      arrays: the folder with these files; no part of the recipe.

    Raises:
      InputError: files that are missing or damaged, or do not fit the model.
    """

    def apply(llama: Llama) -> Llama:
        result = unstack(llama)
        for digest in files:
            _, parameters = fetch(arrays, digest)
            result = _replaced(result, parameters)
        return with_blocks(llama.replace(**_ends(result)), list(single_blocks(result)))

    return apply


def _ends(llama: Llama) -> dict[str, Any]:
    return {name: getattr(llama, name) for name in ("embed", "final_norm", "lm_head")}


def _updated(
    block: Block,
    prefix: str,
    masks: Mapping[str, Mask],
    factors: Mapping[str, np.ndarray],
    scale: float,
) -> Block:
    """A block with the updates that its file has."""
    kernels = linear_kernels(block)
    known = {f"{prefix}{name}.kernel": name for name in kernels}
    changed = {}
    for full in (name.removesuffix(".a") for name in factors if name.endswith(".a")):
        if full not in known or f"{full}.b" not in factors:
            raise InputError(f"there is an adapter for {full}, which the model does not have")
        kernel, a, b = kernels[known[full]], factors[f"{full}.a"], factors[f"{full}.b"]
        rows, columns = kernel_shape(kernel)
        if (a.shape[0], b.shape[1]) != (rows, columns) or a.shape[1] != b.shape[0]:
            raise InputError(
                f"the adapter of {full} is {a.shape} by {b.shape}, the kernel {(rows, columns)}"
            )
        changed[known[full]] = _added(kernel, a, b, masks.get(full), scale)
    return with_kernels(block, changed)


def _added(kernel: Leaf, a: Leaf, b: Leaf, mask: Mask | None, scale: float) -> Leaf:
    if isinstance(kernel, Masked):
        below = kernel.kernel
        return _zeroed(kernel.replace(kernel=_added(below, a, b, mask, scale)))
    kernel = fold(kernel)
    kept = None if mask is None else unpack(mask)
    if isinstance(kernel, jax.Array) and not isinstance(kernel, jax.core.Tracer):
        return _adding(scale, kernel.sharding)(kernel, a, b, kept)
    result = _sum(kernel, a, b, kept, scale)
    return np.asarray(result) if isinstance(kernel, np.ndarray) else result


def _zeroed(kernel: Masked) -> Masked:
    """A masked kernel whose array is exactly zero under the false entries of the mask."""
    return kernel.replace(kernel=fold(kernel))


def _sum(kernel: Leaf, a: Leaf, b: Leaf, kept: Leaf | None, scale: float) -> Leaf:
    updated = Lora(kernel, a, b, scale)
    return fold(updated if kept is None else Masked(updated, kept))


@functools.lru_cache(maxsize=64)
def _adding(scale: float, sharding: jax.sharding.Sharding) -> Callable[..., jax.Array]:
    return jax.jit(functools.partial(_sum, scale=scale), out_shardings=sharding)


def _replaced(llama: Llama, parameters: Mapping[str, np.ndarray]) -> Llama:
    """`llama`, in single blocks, with some of its parameters."""
    missing = set(parameters)

    def visit(path: tuple, old: Any) -> Any:
        name = leaf_name(path)
        if name not in parameters:
            return old
        missing.discard(name)
        new = parameters[name]
        if kernel_shape(old) != new.shape:
            raise InputError(f"the trained {name} is {new.shape}, the model's {kernel_shape(old)}")
        if isinstance(old, Masked):
            inner = old.kernel
            plain = inner.kernel if isinstance(inner, Lora) else inner
            return _zeroed(old.replace(kernel=in_place_of(plain, new)))
        return in_place_of(old.kernel if isinstance(old, Lora) else old, new)

    result = jax.tree_util.tree_map_with_path(visit, llama, is_leaf=is_kernel)
    if missing:
        raise InputError(f"there are trained {min(missing)}, which the model does not have")
    return result
