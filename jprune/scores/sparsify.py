"""Masks for a whole model: every block pruned on what the pruned blocks before it put out.

References: Sun et al., Wanda (arXiv 2306.11695); Frantar and Alistarh, SparseGPT
(arXiv 2301.00774).
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jprune.core.errors import InputError, unknown
from jprune.core.plugins import find_function
from jprune.core.processes import start_copying, to_host
from jprune.llama.blockwise import block_shapes
from jprune.llama.kernels import Leaf
from jprune.llama.linears import INPUT_OF, linear_kernels, with_kernels
from jprune.llama.masks import Mask, pack
from jprune.llama.model import Block, Llama
from jprune.llama.stack import single_blocks
from jprune.scores.densities import Density, per_block
from jprune.scores.inputs import Inputs, Offload, offloaded, stream
from jprune.scores.masks import (
    Pattern,
    check_pattern,
    count_mask,
    magnitudes,
    metric,
    parse_pattern,
    pattern_mask,
    pruned_count,
)
from jprune.scores.sparsegpt import sparsegpt

MASK_CRITERIA = ("magnitude", "wanda", "sparsegpt")
# Criteria that read no data.
MASK_DATA_FREE = ("magnitude",)
# Criteria that change the weights that stay.
NEW_KERNELS = ("sparsegpt",)

Kernels = dict[str, Leaf]
KernelMasks = dict[str, Mask]


@dataclasses.dataclass(frozen=True)
class Sparse:
    """A sparse model and what was decided.

    Attributes:
      llama: plain kernels, exactly zero where a mask is false.
      masks: by kernel name, on the host.
    """

    llama: Llama
    masks: dict[str, Mask]


def sparsify(
    llama: Llama,
    criterion: str,
    ids: Int[np.ndarray, "windows length"] | None = None,
    *,
    density: Density,
    pattern: str | Sequence[str] = "unstructured",
    done: Mapping[int, tuple[Block, KernelMasks]] | None = None,
    after: Callable[[int, Block, KernelMasks], None] = lambda index, block, masks: None,
    batch_size: int | None = None,
    offload: Offload = "none",
) -> Sparse:
    """Prunes the weights of every block, in order.

    Args:
      llama: the model.
      criterion: 'magnitude', 'wanda', 'sparsegpt', or 'module:function'. Such a function is called
        in a compiled program with a kernel [in, out] and s [in], what the metric A = |W| sqrt(s) is
        made of, and returns how much each weight matters [in, out], not negative; like Wanda's
        metric this is compared within each output.
      ids: calibration windows; magnitude does without.
      density: share of weights that stays, in each block or the same in all; not used with N:M.
      pattern: 'unstructured', or N:M such as '2:4': N of every M consecutive inputs stay; one for
        each block, or the same in all.
      done: results of the first blocks from an earlier call that was stopped, by number.
      after: called with each further block's number, its pruned form and its masks, when they are
        on the host: while the next block is at work.
      batch_size: windows per step; by default what suits the device.
      offload: "hidden" keeps the residual streams on the host between steps, "weights" puts pruned
        blocks there; "all" is both. With "weights" and a model that is on the host itself (of NumPy
        arrays, see `jprune.load(..., shardings="host")`) the device never has more than two of its
        blocks, and embeddings only at the start; the ends of the result are those of `llama`.

    Raises:
      InputError: an unknown criterion or pattern, densities that do not fit the model, no windows,
        activations that are not finite.
    """
    decide_block = _decision(criterion)
    densities = per_block(density, llama.num_layers)
    patterns = block_patterns(pattern, llama)
    if criterion not in MASK_DATA_FREE and (ids is None or not len(ids)):
        raise InputError(f"the criterion {criterion} needs calibration windows")
    away = "weights" in offloaded(offload)
    finished = dict(done or {})
    first = len(finished)
    to_be_kept: list[tuple[int, Block, KernelMasks]] = []

    def keep() -> None:
        """Takes the last block's results; by now they have been copied to the host."""
        while to_be_kept:
            index, block, masks = to_be_kept.pop()
            masks = {
                name: Mask(to_host(masks[name].bits), masks[name].rows)
                for name in linear_kernels(block)
            }
            block = jax.tree.map(to_host, block) if away else block
            finished[index] = (block, masks)
            after(index, block, masks)

    def visit(index: int, block: Block, inputs: Inputs | None) -> Block:
        keep()
        kernels = linear_kernels(block)
        sparsity = 1 - densities[index]
        kept, masks = decide_block(
            index, kernels, inputs, sparsity=sparsity, pattern=patterns[index]
        )
        block = with_kernels(block, kept)
        start_copying((block, masks) if away else masks)
        to_be_kept.append((index, block, masks))
        return block

    stream(
        llama,
        None if criterion in MASK_DATA_FREE else ids,
        visit,
        hessian=criterion == "sparsegpt",
        done=[finished[index][0] for index in range(first)],
        batch_size=batch_size,
        offload=offload,
        label=f"pruning by {criterion}",
    )
    keep()
    pruned = [finished[index][0] for index in range(llama.num_layers)]
    masks = {
        f"layers.{index}.{name}.kernel": mask
        for index in range(llama.num_layers)
        for name, mask in finished[index][1].items()
    }
    return Sparse(with_blocks(llama, pruned), masks)


def with_blocks(llama: Llama, first: Sequence[Block]) -> Llama:
    """`llama` as single blocks, the first of them replaced; origins stay."""
    old = list(single_blocks(llama)) if len(first) < llama.num_layers else []
    new = [block.replace(origin=o) for block, o in zip(first, llama.origins, strict=False)]
    return llama.replace(blocks=tuple(new + old[len(new) :]))


def mask_data_free(criterion: str) -> bool:
    """Whether a criterion does without calibration windows.

    Raises:
      InputError: there is none of that name.
    """
    _decision(criterion)
    return criterion in MASK_DATA_FREE


def _decision(criterion: str) -> Callable[..., tuple[Kernels, KernelMasks]]:
    """The function that decides on a block."""
    if criterion in _DECIDE:
        return _DECIDE[criterion]
    if ":" not in criterion:
        raise unknown("criterion", criterion, MASK_CRITERIA)
    return partial(_by_own, criterion, find_function(criterion, "criterion"))


def block_patterns(pattern: str | Sequence[str], llama: Llama) -> list[Pattern | None]:
    """The pattern of every block, which it is known to divide.

    Raises:
      InputError: another number of them, an unknown one, or one that does not divide the inputs.
    """
    one = isinstance(pattern, str)
    given = [pattern] * llama.num_layers if isinstance(pattern, str) else list(pattern)
    if len(given) != llama.num_layers:
        raise InputError(f"{len(given)} patterns for a model of {llama.num_layers} blocks")
    found = [parse_pattern(text) for text in given]
    for index, (chosen, block) in enumerate(zip(found, block_shapes(llama), strict=True)):
        if chosen is None and not one and any(found):
            raise InputError("patterns of blocks are all N:M or all 'unstructured'")
        for name, kernel in linear_kernels(block).items() if chosen else ():
            check_pattern(chosen, kernel.shape[0], f"layers.{index}.{name}")
    return found


def _by_magnitude(index, kernels: Kernels, inputs, *, sparsity, pattern: Pattern | None):
    counts = {name: pruned_count(kernel.size, sparsity) for name, kernel in kernels.items()}
    return _masked(kernels, {name: None for name in kernels}, counts, pattern, magnitudes, None)


def _by_wanda(
    index, kernels: Kernels, inputs: Inputs, *, sparsity, pattern: Pattern | None, value=metric
):
    counts = {name: pruned_count(kernel.shape[0], sparsity) for name, kernel in kernels.items()}
    squares = {name: inputs.squares[INPUT_OF[name]] for name in kernels}
    return _masked(kernels, squares, counts, pattern, value, 0)


def _by_own(name: str, value, index, kernels: Kernels, inputs: Inputs, *, sparsity, pattern):
    """As Wanda, by values of the user's, which are checked."""
    for linear, kernel in kernels.items():
        s = inputs.squares[INPUT_OF[linear]]
        try:
            found = jax.eval_shape(value, kernel, s)
        except Exception as error:
            raise InputError(
                f"{name} failed on {linear} in a compiled program, where it takes and gives arrays "
                f"of JAX: {type(error).__name__}: {str(error).splitlines()[0]}"
            ) from error
        shape = getattr(found, "shape", None)
        if shape != kernel.shape or not jnp.issubdtype(found.dtype, jnp.floating):
            raise InputError(
                f"{name} should give floating-point numbers of the shape {kernel.shape} of the "
                f"kernel, not {getattr(found, 'dtype', type(found).__name__)} of shape {shape}"
            )
        if not _not_negative(kernel, s, value):
            raise InputError(
                f"{name} gave negative numbers, or NaN, in block {index} for {linear}; how much a "
                "weight matters is 0 or more"
            )
    return _by_wanda(index, kernels, inputs, sparsity=sparsity, pattern=pattern, value=value)


@partial(jax.jit, static_argnames="value")
def _not_negative(kernel, s, value) -> Bool[Array, ""]:
    return jnp.all(value(kernel, s) >= 0)


@partial(jax.jit, static_argnames=("pattern", "value", "axis"))
def _masked(kernels: Kernels, squares, counts, pattern: Pattern | None, value, axis: int | None):
    """Kernels and masks by how much `value` says that each weight matters, smallest first."""
    kept, masks = {}, {}
    for name, kernel in kernels.items():
        values = value(kernel, squares[name]).astype(jnp.float32)
        if pattern is not None:
            mask = pattern_mask(values, pattern.keep, pattern.of)
        else:
            mask = count_mask(values, counts[name], axis)
        kept[name] = jnp.where(mask, kernel, 0).astype(kernel.dtype)
        masks[name] = pack(mask)
    return kept, masks


def _by_sparsegpt(index, kernels: Kernels, inputs: Inputs, *, sparsity, pattern: Pattern | None):
    kept: Kernels = {}
    masks: KernelMasks = {}
    for source, hessian in inputs.hessians.items():
        group = [name for name in kernels if INPUT_OF[name] == source]
        found, chosen = sparsegpt(
            tuple(kernels[name] for name in group),
            hessian,
            sparsity,
            pattern,
            f"layers.{index}.{group[0]}" + (" and others" if len(group) > 1 else ""),
        )
        kept |= dict(zip(group, found, strict=True))
        masks |= {name: pack(mask) for name, mask in zip(group, chosen, strict=True)}
    return kept, masks


_DECIDE = {"magnitude": _by_magnitude, "wanda": _by_wanda, "sparsegpt": _by_sparsegpt}
