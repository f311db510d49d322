"""Sparse models: kernels of which only the weights under a mask are left."""

from collections.abc import Callable, Mapping, Sequence

import jax.numpy as jnp
import numpy as np

from jprune.checkpoints.mask_files import fetch
from jprune.core.errors import InputError
from jprune.core.files import PathLike
from jprune.llama.kernels import Leaf, Masked, fold, kernel_shape
from jprune.llama.linears import linear_kernels, with_kernels
from jprune.llama.masks import Mask, Masks, unpack
from jprune.llama.model import Block, Llama, Run
from jprune.llama.stack import single_blocks, stack
from jprune.transforms.transform import transform


def apply_masks(
    llama: Llama,
    masks: Masks,
    kernels: Mapping[str, Leaf] | None = None,
    *,
    keep_masks: bool = False,
) -> Llama:
    """`llama` with exact zeros where masks are false.

    Args:
      llama: the model, in any form.
      masks: by kernel name, `layers.3.self_attn.q_proj.kernel`; others stay as they are.
      kernels: new kernels for some of the names, as SparseGPT gives.
      keep_masks: the result has `Masked` kernels, which training cannot fill again; otherwise
        plain kernels with zeros, and adapters folded.

    Raises:
      InputError: a name that is no kernel of the model, or another shape.
    """
    blocks = list(single_blocks(llama))
    known = {f"layers.{i}.{n}.kernel" for i, b in enumerate(blocks) for n in linear_kernels(b)}
    for name in masks:
        if name not in known:
            raise InputError(f"there is a mask for {name}, which the model does not have")
    pruned = tuple(
        _masked_block(block, f"layers.{index}", masks, kernels or {}, keep_masks)
        for index, block in enumerate(blocks)
    )
    result = llama.replace(blocks=pruned)
    return stack(result) if any(isinstance(part, Run) for part in llama.blocks) else result


@transform
def sparse_weights(
    blocks: Sequence[str], *, arrays: PathLike = ".", keep_masks: bool = False
) -> Callable[[Llama], Llama]:
    """The weights that a sparsity criterion decided on, from files.

    Reference: Sun et al., Wanda (arXiv 2306.11695); Frantar and Alistarh, SparseGPT
    (arXiv 2301.00774).

    Args:
      blocks: for each block the SHA-256 of its masks and, with SparseGPT, kernels; see
        `jprune.checkpoints.mask_files`.
      arrays: the folder with these files; no part of the recipe.
      keep_masks: see `apply_masks`.

    Raises:
      InputError: files that are missing or damaged, or do not fit the model.
    """

    def apply(llama: Llama) -> Llama:
        if len(blocks) != llama.num_layers:
            raise InputError(
                f"the recipe has masks of {len(blocks)} blocks, the model has {llama.num_layers}"
            )
        masks: dict[str, Mask] = {}
        kernels: dict[str, np.ndarray] = {}
        for digest in blocks:
            of_block, new = fetch(arrays, digest)
            masks |= of_block
            kernels |= new
        return apply_masks(llama, masks, kernels, keep_masks=keep_masks)

    return apply


def _masked_block(
    block: Block, prefix: str, masks: Masks, kernels: Mapping[str, Leaf], keep_masks: bool
) -> Block:
    changed = {}
    for name, kernel in linear_kernels(block).items():
        full = f"{prefix}.{name}.kernel"
        if full in masks:
            kernel = jnp.asarray(kernels[full]) if full in kernels else kernel
            changed[name] = _masked(kernel, masks[full], full, keep_masks)
    return with_kernels(block, changed)


def _masked(kernel: Leaf, mask: Mask, name: str, keep_masks: bool) -> Leaf:
    if kernel_shape(kernel) != mask.shape:
        raise InputError(f"the mask of {name} is {mask.shape}, the kernel {kernel_shape(kernel)}")
    booleans = jnp.asarray(unpack(mask))
    if isinstance(kernel, Masked):
        booleans, kernel = booleans & kernel.mask, kernel.kernel
    masked = Masked(kernel, booleans)
    return masked if keep_masks else fold(masked)
