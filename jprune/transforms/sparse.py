"""Sparse models: kernels of which only the weights under a mask are left."""

from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jprune.checkpoints.mask_files import fetch
from jprune.core.errors import InputError
from jprune.core.files import PathLike
from jprune.llama.kernels import Leaf, Masked, fold, is_kernel, kernel_shape
from jprune.llama.linears import linear_kernels, with_kernels
from jprune.llama.masks import Mask, Masks, unpack
from jprune.llama.model import Block, Llama
from jprune.llama.stack import single_blocks
from jprune.transforms.stored import in_place_of, with_blocks
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
    blocks = dict(enumerate(single_blocks(llama)))
    _check_known(masks, blocks)
    return with_blocks(
        llama,
        [
            mask_block(block, index, masks, kernels, keep_masks=keep_masks)
            for index, block in blocks.items()
        ],
    )


@transform
def sparse_weights(
    blocks: Sequence[str],
    *,
    adjusted: bool = False,
    arrays: PathLike = ".",
    keep_masks: bool = False,
) -> Callable[[Llama], Llama]:
    """The weights that a sparsity criterion decided on, from files.

    Reference: Sun et al., Wanda (arXiv 2306.11695); Frantar and Alistarh, SparseGPT
    (arXiv 2301.00774).

    Args:
      blocks: for each block the SHA-256 of its masks and, with SparseGPT, kernels; see
        `jprune.checkpoints.mask_files`.
      adjusted: whether the weights that stay are new too; for readers of the recipe.
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
        pruned = []  # one after the other: only one block's files are in memory
        for index, (digest, block) in enumerate(zip(blocks, single_blocks(llama), strict=True)):
            masks, kernels = fetch(arrays, digest)
            _check_known(masks, {index: block})
            pruned.append(mask_block(block, index, masks, kernels, keep_masks=keep_masks))
        return with_blocks(llama, pruned)

    return apply


def mask_block(
    block: Block,
    index: int,
    masks: Masks,
    kernels: Mapping[str, Leaf] | None = None,
    *,
    keep_masks: bool = False,
) -> Block:
    """The block at `index` of what `apply_masks` gives.

    Arrays stay where they are: on the host, or split over devices as before.

    Raises:
      InputError: a mask of another shape than the kernel's.
    """
    changed = {}
    for name, kernel in linear_kernels(block).items():
        full = f"layers.{index}.{name}.kernel"
        if full in masks:
            new = (kernels or {}).get(full)
            kernel = kernel if new is None else in_place_of(kernel, new)
            changed[name] = _masked(kernel, masks[full], full, keep_masks)
    return with_kernels(block, changed)


def _check_known(masks: Masks, blocks: Mapping[int, Block]) -> None:
    """Raises InputError if there is a mask for what these blocks, by number, do not have."""
    known = {f"layers.{i}.{n}.kernel" for i, b in blocks.items() for n in linear_kernels(b)}
    for name in masks:
        if name not in known:
            raise InputError(f"there is a mask for {name}, which the model does not have")


def _masked(kernel: Leaf, mask: Mask, name: str, keep_masks: bool) -> Leaf:
    if kernel_shape(kernel) != mask.shape:
        raise InputError(f"the mask of {name} is {mask.shape}, the kernel {kernel_shape(kernel)}")
    if isinstance(kernel, np.ndarray) and not keep_masks:
        return np.where(unpack(_on_host(mask)), kernel, np.zeros((), kernel.dtype))
    if not keep_masks and not is_kernel(kernel):
        return _zeroed(kernel, mask)
    booleans = unpack(mask) if isinstance(kernel, np.ndarray) else jnp.asarray(unpack(mask))
    if isinstance(kernel, Masked):
        booleans, kernel = booleans & kernel.mask, kernel.kernel
    masked = Masked(kernel, booleans)
    return masked if keep_masks else fold(masked)


@jax.jit
def _zeroed(kernel: Leaf, mask: Mask) -> Leaf:
    # The bits are unpacked on the device: an eighth of the booleans travels there.
    return jnp.where(jnp.unpackbits(mask.bits, axis=0, count=mask.rows) == 1, kernel, 0).astype(
        kernel.dtype
    )


def _on_host(mask: Mask) -> Mask:
    return mask.replace(bits=np.asarray(mask.bits))
