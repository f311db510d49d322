"""The declaration: shapes, axes and first values agree with one another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jprune.llama import abstract, anonymous, count_params, init, llama_spec, named_params
from tests.tiny import CONFIG, tiny


@pytest.mark.parametrize("stacked", [False, True])
def test_shapes_axes_and_arrays_agree(stacked):
    spec = llama_spec(CONFIG, 3, stacked=stacked)
    shapes = abstract(CONFIG, 3, jnp.bfloat16, stacked=stacked)
    arrays = init(CONFIG, 3, jax.random.key(0), jnp.bfloat16, stacked=stacked)
    leaves = [jax.tree.leaves(tree) for tree in (spec, shapes, arrays)]
    for p, shape, array in zip(*leaves, strict=True):
        assert p.shape == shape.shape == array.shape and len(p.axes) == len(p.shape)
        assert shape.dtype == array.dtype == jnp.bfloat16
    # Embeddings, head and final norm, and 3 x (q, k, v, o, three MLP matrices, two norms).
    per_block = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 56 + 2 * 32
    assert count_params(shapes) == 2 * 97 * 32 + 32 + 3 * per_block


def test_first_values():
    params = named_params(init(CONFIG, 8, jax.random.key(0)))
    np.testing.assert_array_equal(params["layers.3.input_layernorm.weight"], np.ones(32))
    assert np.isclose(params["embed_tokens.embedding"].std(), 0.02, rtol=0.1)
    assert np.isclose(params["layers.3.mlp.up_proj.kernel"].std(), 0.02, rtol=0.1)
    assert np.isclose(params["layers.3.mlp.down_proj.kernel"].std(), 0.02 / 4, rtol=0.1)
    q = [np.asarray(params[f"layers.{layer}.self_attn.q_proj.kernel"]) for layer in (0, 1)]
    assert np.abs(q[0] - q[1]).max() > 0.01


def test_the_key_decides():
    first, again, other = (init(CONFIG, 2, jax.random.key(seed)).embed for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01


def test_anonymous_models_of_one_structure_share_a_tree():
    llama = tiny(4)
    first, second = (llama.replace(blocks=llama.blocks[at : at + 2]) for at in (0, 2))
    assert jax.tree.structure(first) != jax.tree.structure(second)
    assert jax.tree.structure(anonymous(first)) == jax.tree.structure(anonymous(second))
