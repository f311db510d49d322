"""Parameters by name, and the bridge to nested dicts."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jprune.llama import Lora, forward, from_params, named_params, stack, to_params
from tests.tiny import tiny, windows


def test_names_are_those_of_hugging_face():
    names = list(named_params(tiny(2, attention_bias=True, output_bias=True)))
    for name in (
        "embed_tokens.embedding",
        "layers.1.input_layernorm.weight",
        "layers.1.self_attn.q_proj.kernel",
        "layers.0.self_attn.o_proj.bias",
        "layers.0.post_attention_layernorm.weight",
        "layers.1.mlp.down_proj.kernel",
        "norm.weight",
        "lm_head.kernel",
    ):
        assert name in names
    assert len(names) == len(set(names)) == 3 + 2 * (2 + 4 + 4 + 3)


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_there_and_back(tied, stacked):
    llama = tiny(2, tie_word_embeddings=tied, mlp_bias=True)
    params = to_params(stack(llama) if stacked else llama)
    assert params["layers"]["1"]["mlp"]["up_proj"]["kernel"].shape == (32, 56)
    assert ("lm_head" in params) is not tied
    back = from_params(llama.config, params, source="tiny")
    assert jax.tree.structure(back) == jax.tree.structure(llama)
    for a, b in zip(jax.tree.leaves(back), jax.tree.leaves(llama), strict=True):
        np.testing.assert_array_equal(a, b)


def test_removed_sublayers_stay_removed():
    llama = tiny(2)
    first = llama.blocks[0].replace(mlp=None, mlp_norm=None)
    params = to_params(llama.replace(blocks=(first, llama.blocks[1])))
    assert "mlp" not in params["layers"]["0"]
    assert "post_attention_layernorm" not in params["layers"]["0"]
    back = from_params(llama.config, params)
    assert back.blocks[0].mlp is None and back.blocks[0].mlp_norm is None
    assert back.blocks[1].mlp is not None


def test_adapters_are_folded_into_params_but_named_apart():
    llama = tiny(1)
    block = llama.blocks[0]
    kernel = block.attn.v.kernel
    lora = Lora(kernel, jnp.ones((32, 1)), jnp.ones((1, 16)), scale=0.5)
    attn = block.attn.replace(v=block.attn.v.replace(kernel=lora))
    wrapped = llama.replace(blocks=(block.replace(attn=attn),))
    assert "layers.0.self_attn.v_proj.kernel.a" in named_params(wrapped)
    folded = to_params(wrapped)["layers"]["0"]["self_attn"]["v_proj"]["kernel"]
    np.testing.assert_allclose(folded, kernel + 0.5, atol=1e-6)


def test_a_rebuilt_model_runs():
    llama, ids = tiny(1), windows(1, 4)
    rebuilt = from_params(llama.config, to_params(llama))
    np.testing.assert_array_equal(forward(rebuilt, ids), forward(llama, ids))
