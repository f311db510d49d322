"""The suite `masks`: pruning single weights, by layerwise rates and Wanda, and by SparseGPT."""

import numpy as np

from jprune.allocate import allocate
from jprune.llama import Llama
from jprune.llama.blockwise import block_shapes
from jprune.llama.flops import block_flops, kernel_params
from jprune.llama.linears import INPUT_OF, linear_kernels
from jprune.llama.model import Block
from jprune.measure.timing import Job
from jprune.scores.sparsify import sparsify
from jprune.scores.weight_stats import weight_stats

# The papers' calibration set and sparsity.
CALIBRATION = (128, 2048)
SPARSITY = 0.7


def mask_jobs(
    llama: Llama,
    calibration: tuple[int, int] = CALIBRATION,
    sparsity: float = SPARSITY,
    seed: int = 0,
) -> list[Job]:
    """Layerwise rates by DLP with Wanda at these rates, and SparseGPT, on random tokens.

    A run returns the sparse model and holds on to nothing: the device has the model and one result.

    Args:
      llama: the model.
      calibration: windows and tokens per window.
      sparsity: of all blocks together.
      seed: of the tokens.
    """
    ids = np.random.default_rng(seed).integers(0, llama.config.vocab_size, calibration)
    ids = ids.astype(np.int32)
    size = f"{ids.shape[0]} x {ids.shape[1]}"

    def by_dlp_and_wanda() -> Llama:
        density = allocate("dlp", weight_stats(llama, ids), sparsity)
        return sparsify(llama, "wanda", ids, density=density).llama

    def by_sparsegpt() -> Llama:
        return sparsify(llama, "sparsegpt", ids, density=1 - sparsity).llama

    one_pass = prune_flops(llama, ids.size, ids.shape[1])
    return [
        Job(
            f"DLP ratios, then Wanda at {sparsity:.0%}, {size}",
            by_dlp_and_wanda,
            stats_flops(llama, ids.size, ids.shape[1]) + one_pass,
        ),
        Job(
            f"SparseGPT at {sparsity:.0%}, {size}",
            by_sparsegpt,
            one_pass + hessian_flops(llama, ids.size),
        ),
    ]


def stats_flops(llama: Llama, tokens: int, length: int) -> int:
    """FLOPs of one pass through the blocks; no head."""
    window = llama.config.sliding_window
    return tokens * sum(block_flops(block, length, window) for block in block_shapes(llama))


def prune_flops(llama: Llama, tokens: int, length: int) -> int:
    """FLOPs of the passes through a model whose blocks are pruned one after the other.

    Each block runs before, up to what its last linear reads, and after it is pruned; what the last
    block puts out is not needed.
    """
    window = llama.config.sliding_window
    each = [block_flops(block, length, window) for block in block_shapes(llama)]
    unread = sum(map(_last_product, block_shapes(llama)))
    return tokens * (2 * sum(each) - unread - (each[-1] if each else 0))


def hessian_flops(llama: Llama, tokens: int) -> int:
    """FLOPs of X^T X for everything that linears read: 2 per token and entry."""
    total = 0
    for block in block_shapes(llama):
        kernels = linear_kernels(block)
        widths = {INPUT_OF[name]: kernel.shape[0] for name, kernel in kernels.items()}
        total += 2 * sum(width**2 for width in widths.values())
    return tokens * total


def _last_product(block: Block) -> int:
    """FLOPs per token of the block's last linear."""
    kernels = list(linear_kernels(block).values())
    return 2 * kernel_params(kernels[-1]) if kernels else 0
