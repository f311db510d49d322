"""Models on the host: the same results, with two blocks on the device at most."""

import gc
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jprune.checkpoints import export_huggingface, load
from jprune.core import mesh as meshes
from jprune.llama import Lora, forward, stack
from jprune.llama.blockwise import on_device
from jprune.scores import inputs as module
from jprune.scores.inputs import stream
from jprune.scores.sparsify import MASK_CRITERIA, sparsify
from jprune.scores.weight_stats import weight_stats
from tests.tiny import tiny, windows

IDS = windows(7, 12)
BATCH = 3  # of seven windows: the last batch is filled up


@pytest.fixture(scope="module")
def llama():
    return tiny(4)


def on_host(llama):
    copy = jax.tree.map(np.array, llama)
    gc.collect()  # on a CPU an array and the host's view of it hold each other
    return copy


def identical(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


@pytest.mark.parametrize("form", ["tuple", "stack", "lora"])
@pytest.mark.parametrize("criterion", MASK_CRITERIA)
def test_a_model_on_the_host_gives_the_same_bit_for_bit(llama, criterion, form):
    if form == "stack":
        llama = stack(llama)
    if form == "lora":
        q = llama.blocks[1].attn.q
        lora = Lora(q.kernel, jnp.ones((32, 2)), jnp.full((2, 32), 0.1), 0.5)
        block = llama.blocks[1].replace(attn=llama.blocks[1].attn.replace(q=q.replace(kernel=lora)))
        llama = llama.replace(blocks=(llama.blocks[0], block, *llama.blocks[2:]))
    settings = {"density": 0.4, "batch_size": BATCH}
    resident = sparsify(llama, criterion, IDS, **settings)
    away = sparsify(on_host(llama), criterion, IDS, offload="all", **settings)
    identical(away.llama, resident.llama)
    identical(away.masks, resident.masks)
    assert {type(leaf) for leaf in jax.tree.leaves((away.llama, away.masks))} == {np.ndarray}


def test_results_of_a_resident_model_go_to_the_host_if_asked(llama):
    found = sparsify(llama, "wanda", IDS, density=0.4, offload=["weights"])
    assert {type(leaf) for leaf in jax.tree.leaves(found.llama.blocks)} == {np.ndarray}
    identical(found.llama, sparsify(llama, "wanda", IDS, density=0.4).llama)


@pytest.mark.parametrize("offload", ["none", "all"])
def test_statistics_of_a_model_on_the_host(llama, offload):
    expected = weight_stats(llama, IDS, batch_size=BATCH)
    found = weight_stats(on_host(llama), IDS, batch_size=BATCH, offload=offload)
    for name in ("mean", "median", "outliers", "sizes"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))


@pytest.fixture
def copies(monkeypatch):
    """Lets the host have copies: on a CPU it sees arrays where they are, and these live on."""
    for one in (module, importlib.import_module("jprune.scores.sparsify")):
        monkeypatch.setattr(one, "to_host", np.array)
        monkeypatch.setattr(one, "start_copying", lambda tree: None)


def on_the_device(llama) -> float:
    """How many blocks' worth of kernels of the MLP the device has; sums have other shapes."""
    mlp = llama.blocks[0].mlp
    shapes = {mlp.up.kernel.shape, mlp.down.kernel.shape}
    held = [array for array in jax.live_arrays() if array.shape in shapes]
    return len(held) / 3


@pytest.mark.parametrize("criterion", MASK_CRITERIA)
def test_the_device_has_two_blocks_at_most(criterion, copies, monkeypatch):
    # Widths that no other array of the test has.
    llama = on_host(tiny(5, hidden_size=40, intermediate_size=72, head_dim=10))
    before, seen = on_the_device(llama), []

    def looking(function):
        def looks(*args, **kwargs):
            seen.append(on_the_device(llama) - before)
            found = function(*args, **kwargs)
            seen.append(on_the_device(llama) - before)
            return found

        return looks

    decide = importlib.import_module("jprune.scores.sparsify")._DECIDE
    monkeypatch.setitem(decide, criterion, looking(decide[criterion]))
    for name in ("advance", "_gather"):
        monkeypatch.setattr(module, name, looking(getattr(module, name)))
    result = sparsify(llama, criterion, IDS, density=0.4, batch_size=BATCH, offload="all")
    assert len(seen) >= 2 * 5 and max(seen) == 2 and min(seen) >= 1
    assert on_the_device(llama) == before
    del result


def test_statistics_have_two_blocks_on_the_device_at_most():
    llama = on_host(tiny(5, hidden_size=40, intermediate_size=72, head_dim=10))
    before, seen = on_the_device(llama), []
    gather = module._gather
    with pytest.MonkeyPatch.context() as patch:
        look = lambda *args: (seen.append(on_the_device(llama) - before), gather(*args))[1]  # noqa: E731
        patch.setattr(module, "_gather", look)
        weight_stats(llama, IDS, batch_size=BATCH)
    assert max(seen) == 2 and on_the_device(llama) == before


def test_the_device_has_the_embedding_only_at_the_start():
    llama = on_host(tiny(3, vocab_size=101))
    table = (101, 32)
    stream(llama, IDS, lambda index, block, sums: _without(table, block))


def _without(shape, block):
    assert not [array for array in jax.live_arrays() if array.shape in (shape, shape[::-1])]
    return block


def test_residual_streams_on_the_host_leave_one_on_the_device(llama, copies):
    streams = lambda: [  # noqa: E731
        array for array in jax.live_arrays() if array.shape == (1, 12, 32)
    ]
    seen = []

    def visit(index, block, sums):
        seen.append(len(streams()))
        return block

    for offload in ("none", "hidden"):
        stream(llama, IDS, visit, batch_size=1, offload=offload)
    assert min(seen[:4]) >= 7 and max(seen[4:]) == 1


def test_a_stopped_run_goes_on(llama):
    everything = {}
    whole = sparsify(
        llama,
        "wanda",
        IDS,
        density=0.4,
        after=lambda index, block, masks: everything.update({index: (block, masks)}),
    )
    assert list(everything) == [0, 1, 2, 3]
    first = {index: everything[index] for index in (0, 1)}
    again = []
    for model in (llama, stack(llama), on_host(llama)):
        rest = sparsify(
            model,
            "wanda",
            IDS,
            density=0.4,
            done=first,
            after=lambda index, block, masks: again.append(index),
        )
        identical(rest.masks, whole.masks)
        identical(rest.llama.blocks, whole.llama.blocks)
    assert again == [2, 3] * 3


def test_a_model_on_the_host_is_split_over_the_mesh(llama):
    llama = tiny(3, vocab_size=96)
    ids = windows(8, 12, vocab=96)
    alone = sparsify(llama, "wanda", ids, density=0.4)
    seen = set()

    def after(index, block, masks):
        seen.update(len(leaf.sharding.device_set) for leaf in jax.tree.leaves(block))

    with meshes.use_mesh("data:2,fsdp:2,tensor:2"):
        spread = sparsify(on_host(llama), "wanda", ids, density=0.4, after=after)
        away = sparsify(on_host(llama), "wanda", ids, density=0.4, offload="all")
    assert seen == {8}
    identical(away.llama.blocks, jax.tree.map(np.asarray, spread.llama.blocks))
    np.testing.assert_allclose(
        forward(on_device(away.llama), ids), forward(alone.llama, ids), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_checkpoint_is_pruned_from_its_files(llama, tmp_path, dtype):
    narrow = jax.tree.map(lambda leaf: leaf.astype(dtype), llama)
    export_huggingface(tmp_path / "m", narrow)
    mapped = load(tmp_path / "m", dtype, shardings="host")
    assert not mapped.blocks[0].mlp.up.kernel.flags.owndata
    found = sparsify(mapped, "wanda", IDS, density=0.4, offload="all")
    expected = sparsify(load(tmp_path / "m", dtype), "wanda", IDS, density=0.4)
    identical(found.llama, expected.llama)
