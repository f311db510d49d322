"""Masks of models whose pruned weights are zeros in plain kernels."""

import jax
import jax.numpy as jnp
import numpy as np

from jprune.llama.kernels import Leaf, Masked, fold, is_kernel
from jprune.llama.linears import linear_kernels, with_kernels
from jprune.llama.model import Llama, Run
from jprune.llama.stack import single_blocks, stack


def mask_zeros(llama: Llama, least: float = 0.001) -> Llama:
    """`llama` with masks over its zeros, which training then leaves zero.

    If at least `least` of the weights of any kernel in a block are exactly zero, the model counts
    as sparse, and every plain kernel there becomes `Masked` by what is not zero. So masks that were
    folded come back; the weights that are zero by chance are few. Another model is returned as it
    is.

    Args:
      llama: the model, in any form.
      least: the share, above 0.
    """
    blocks = list(single_blocks(llama))
    kernels = [linear_kernels(block) for block in blocks]
    if not any(_zeros(kernel) >= least for named in kernels for kernel in named.values()):
        return llama
    masked = tuple(
        with_kernels(block, {name: _under_mask(kernel) for name, kernel in named.items()})
        for block, named in zip(blocks, kernels, strict=True)
    )
    result = llama.replace(blocks=masked)
    return stack(result) if any(isinstance(part, Run) for part in llama.blocks) else result


def has_masks(llama: Llama) -> bool:
    """Whether a kernel is `Masked`."""
    leaves = jax.tree.leaves(llama, is_leaf=lambda x: isinstance(x, Masked))
    return any(isinstance(leaf, Masked) for leaf in leaves)


def fold_masks(llama: Llama) -> Llama:
    """`llama` with plain kernels, zero where masks were false, in place of `Masked` ones."""

    def folded(kernel: Leaf) -> Leaf:
        if not isinstance(kernel, Masked):
            return kernel
        on_host = isinstance(kernel.kernel, np.ndarray)
        return np.asarray(fold(kernel)) if on_host else fold(kernel)

    return jax.tree.map(folded, llama, is_leaf=lambda x: isinstance(x, Masked))


def _zeros(kernel: Leaf) -> float:
    """The share of a plain kernel's weights that is zero; 0 for others."""
    if is_kernel(kernel):
        return 0.0
    xp = np if isinstance(kernel, np.ndarray) else jnp
    return 1 - int(xp.count_nonzero(kernel)) / kernel.size


def _under_mask(kernel: Leaf) -> Leaf:
    return kernel if is_kernel(kernel) else Masked(kernel, kernel != 0)
