"""The suite `masks` prunes what it says, counts what runs, and keeps nothing."""

import jax
import numpy as np
import pytest

from jprune.llama import Lora, stack
from jprune.llama.flops import block_flops
from jprune.measure import mask_jobs
from jprune.measure.masks import hessian_flops, prune_flops, stats_flops
from tests.tiny import tiny

SIZE = (2, 16)


def zeros(llama) -> float:
    """Share of zeros in the kernels of the blocks."""
    kernels = [leaf for leaf in jax.tree.leaves(llama.blocks) if leaf.ndim == 2]
    return sum((np.asarray(k) == 0).sum() for k in kernels) / sum(k.size for k in kernels)


def test_jobs_prune_to_the_sparsity():
    wanda, sparsegpt = mask_jobs(tiny(3), calibration=SIZE)
    assert wanda.name == "DLP ratios, then Wanda at 70%, 2 x 16"
    pruned = wanda.run()
    assert zeros(pruned) == pytest.approx(0.7, abs=0.02)
    shares = [zeros(pruned.replace(blocks=(block,))) for block in pruned.blocks]
    assert max(shares) - min(shares) == pytest.approx(0.3, abs=0.05)  # DLP's 2 alpha
    assert zeros(sparsegpt.run()) == pytest.approx(0.7, abs=0.02)


@pytest.mark.parametrize("form", [lambda llama: llama, stack], ids=["tuple", "stack"])
def test_flops(form):
    llama = form(tiny(3))
    block = block_flops(tiny(1).blocks[0], 16)
    down = 2 * 56 * 32
    assert stats_flops(llama, 32, 16) == 32 * 3 * block
    # Three blocks up to the input of `down`, then two of them again: nothing reads the third.
    assert prune_flops(llama, 32, 16) == 32 * (3 * (block - down) + 2 * block)
    # attn_in, attn_out and mlp_in are 32 wide, mlp_out is 56.
    assert hessian_flops(llama, 32) == 32 * 3 * 2 * (3 * 32**2 + 56**2)
    wanda, sparsegpt = mask_jobs(llama, calibration=SIZE)
    assert wanda.flops == 32 * (3 * block + 3 * (block - down) + 2 * block)
    assert sparsegpt.flops == prune_flops(llama, 32, 16) + hessian_flops(llama, 32)


def test_flops_of_what_is_missing_or_wrapped():
    llama = tiny(2)
    plain = prune_flops(llama, 32, 16), hessian_flops(llama, 32)
    first, second = llama.blocks
    up = first.mlp.up.replace(kernel=Lora(first.mlp.up.kernel, np.zeros((32, 2)), np.ones((2, 56))))
    wrapped = llama.replace(blocks=(first.replace(mlp=first.mlp.replace(up=up)), second))
    assert (prune_flops(wrapped, 32, 16), hessian_flops(wrapped, 32)) == plain
    without = llama.replace(blocks=(first.replace(mlp=None, mlp_norm=None),))
    attention = block_flops(without.blocks[0], 16)
    # The only pass: without what `o` puts out.
    assert prune_flops(without, 32, 16) == 32 * (attention - 2 * 32 * 32)
    assert hessian_flops(without, 32) == 32 * 2 * 2 * 32**2


@pytest.mark.parametrize("job", [0, 1], ids=["wanda", "sparsegpt"])
def test_only_the_result_is_kept_and_it_goes_at_once(job):
    llama = tiny(3)
    job = mask_jobs(llama, calibration=SIZE)[job]
    job.run()  # what compiled programs hold stays
    before = len(jax.live_arrays())
    result = job.run()
    # The ends are those of the model; each block has nine arrays, two of which are its norms.
    assert len(jax.live_arrays()) == before + 3 * 7
    del result
    assert len(jax.live_arrays()) == before
