"""The pass over the blocks: what it sums, what runs, and what is where meanwhile."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jprune.core import InputError
from jprune.llama.blockwise import ends, start
from jprune.llama.forward import apply_block, context, embed
from jprune.scores import inputs as module
from jprune.scores.inputs import OFFLOADS, offloaded, stream
from jprune.scores.sparsify import sparsify
from tests.tiny import tiny, windows

IDS = windows(7, 12)
BATCH = 3  # of seven windows: the last batch is filled up


@pytest.fixture(scope="module")
def llama():
    return tiny(4)


def squares_by_hand(llama, ids):
    """Of each block, the mean over windows of the sum over tokens of the square of each input."""
    h, ctx, found = embed(llama, ids), context(llama.config, ids.shape[1]), []
    for block in llama.blocks:
        sums = {}

        def tap(name, x, sums=sums):
            sums[name] = np.square(np.asarray(x, np.float64)).sum(axis=(0, 1)) / len(ids)

        h = apply_block(block, h, ctx, tap=tap)
        found.append(sums)
    return found


@pytest.mark.parametrize("reads_only", [True, False])
@pytest.mark.parametrize("offload", OFFLOADS)
def test_sums(llama, offload, reads_only):
    found = []

    def visit(index, block, sums):
        found.append(sums.squares)
        return block

    stream(llama, IDS, visit, reads_only=reads_only, batch_size=BATCH, offload=offload)
    for sums, expected in zip(found, squares_by_hand(llama, IDS), strict=True):
        assert sums.keys() == expected.keys()
        for name, s in expected.items():
            np.testing.assert_allclose(sums[name], s, rtol=1e-5)


def test_what_is_not_needed_does_not_run(llama, monkeypatch):
    h, ctx = start(ends(llama), IDS)
    weight = np.ones(7, np.float32)

    def flops(outputs):
        gather = jax.jit(
            lambda block, h: module._gather(block, h, weight, ctx, None, False, outputs)
        )
        return gather.lower(llama.blocks[0], h).compile().cost_analysis()["flops"]

    # The last product, whose sum nobody reads.
    assert flops(True) - flops(False) >= 2 * IDS.size * 56 * 32
    calls = []
    advance = module.advance
    monkeypatch.setattr(module, "advance", lambda *args: calls.append(1) or advance(*args))
    stream(llama, IDS, lambda index, block, sums: block, batch_size=BATCH)
    assert len(calls) == 3 * 3  # three batches; what the last block puts out feeds nothing
    stream(llama, IDS, lambda index, block, sums: block, batch_size=BATCH, reads_only=True)
    assert len(calls) == 3 * 3


def test_one_program_for_all_blocks(llama):
    sparsify(llama, "wanda", IDS, density=0.5, batch_size=BATCH)
    jax.clear_caches()
    sparsify(llama, "wanda", IDS, density=[0.2, 0.4, 0.6, 0.8], batch_size=BATCH)
    # Two of the sums: those of the first batch have nothing to be added to.
    assert module._gather._cache_size() == 2 and module.advance._cache_size() == 1


@pytest.mark.parametrize("offload", ["none", "hidden"])
@pytest.mark.parametrize("broken", ["attn_in", "mlp_out"])
def test_what_is_not_finite_is_named(llama, broken, offload):
    blocks = list(llama.blocks)
    if broken == "attn_in":
        blocks[2] = blocks[2].replace(attn_norm=blocks[2].attn_norm * jnp.inf)
    else:
        up = blocks[2].mlp.up.replace(kernel=blocks[2].mlp.up.kernel * jnp.nan)
        blocks[2] = blocks[2].replace(mlp=blocks[2].mlp.replace(up=up))
    kept = []
    with pytest.raises(InputError, match=f"the inputs of {broken} in block 2 are not finite"):
        sparsify(
            llama.replace(blocks=tuple(blocks)),
            "wanda",
            IDS,
            density=0.5,
            offload=offload,
            after=lambda index, block, masks: kept.append(index),
        )
    assert kept == [0, 1]  # nothing of the block that is broken


def test_no_windows(llama):
    for ids in (None, IDS[:0]):
        with pytest.raises(InputError, match="wanda needs calibration windows"):
            sparsify(llama, "wanda", ids, density=0.5)


def test_offloads():
    assert [sorted(offloaded(name)) for name in OFFLOADS] == [
        [],
        ["hidden"],
        ["weights"],
        ["hidden", "weights"],
    ]
    assert offloaded(("hidden", "weights")) == offloaded({"all", "none"}) == offloaded("all")
    with pytest.raises(InputError, match="unknown value of offload 'hiden'; did you mean 'hidden'"):
        offloaded("hiden")
