"""Stacking and unstacking lose nothing."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jprune.llama import Run, forward, init, stack, unstack
from jprune.llama.stack import take_layers
from jprune.transforms import drop_sublayers
from tests.tiny import CONFIG, tiny, windows


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)


def mixed():
    """Blocks of three structures: plain, plain, without attention, narrow, plain."""
    llama = tiny(5)
    blocks = list(llama.blocks)
    blocks[2] = blocks[2].replace(attn=None, attn_norm=None)
    narrow = init(dataclasses.replace(CONFIG, intermediate_size=40), 1, jax.random.key(9))
    blocks[3] = blocks[3].replace(mlp=narrow.blocks[0].mlp)
    return llama.replace(blocks=tuple(blocks))


def test_equal_blocks_make_one_run():
    llama = tiny(4)
    stacked = stack(llama)
    (run,) = stacked.blocks
    assert len(run) == 4 and run.origins == llama.origins
    np.testing.assert_array_equal(run.block.attn.q.kernel[2], llama.blocks[2].attn.q.kernel)
    same(unstack(stacked), llama)


def test_runs_break_where_the_structure_changes():
    llama = mixed()
    stacked = stack(llama)
    assert [len(run) for run in stacked.blocks] == [2, 1, 1, 1]
    assert stacked.num_layers == 5 and stacked.origins == llama.origins
    same(unstack(stacked), llama)
    assert stack(stacked) is stacked and unstack(llama).blocks == llama.blocks


def test_blocks_without_arrays_keep_their_places():
    llama = drop_sublayers(attention=[1, 2], mlp=[1, 2])(tiny(4))
    stacked = stack(llama)
    assert [len(run) for run in stacked.blocks] == [1, 2, 1]
    same(unstack(stacked), llama)
    ids = windows(2, 8)
    np.testing.assert_allclose(forward(stacked, ids), forward(llama, ids), atol=1e-5)


def test_dtypes_are_part_of_the_structure():
    llama = tiny(2)
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), llama.blocks[1])
    assert len(stack(llama.replace(blocks=(llama.blocks[0], half))).blocks) == 2


def test_consuming_deletes_the_sources_and_keeps_the_numbers():
    llama = tiny(3)
    copy = jax.tree.map(jnp.copy, llama)
    stacked = stack(copy, consume=True)
    assert copy.blocks[0].mlp.up.kernel.is_deleted()
    back = unstack(stacked, consume=True)
    assert stacked.blocks[0].block.mlp.up.kernel.is_deleted()
    same(back, llama)


def test_both_forms_work_on_shapes_alone():
    shapes = jax.eval_shape(stack, tiny(3))
    assert isinstance(shapes.blocks[0], Run)
    assert shapes.blocks[0].block.attn.k.kernel.shape == (3, 32, 16)
    assert jax.eval_shape(unstack, shapes).blocks[1].attn.k.kernel.shape == (32, 16)


def test_take_layers_orders_blocks_and_origins():
    llama = tiny(4)
    run = take_layers(stack(llama).blocks[0], [3, 1])
    assert run.origins == (llama.origins[3], llama.origins[1])
    np.testing.assert_array_equal(run.block.mlp.down.kernel[0], llama.blocks[3].mlp.down.kernel)
