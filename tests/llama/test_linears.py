"""Linears by name."""

import jax
import numpy as np

from jprune.llama import named_params
from jprune.llama.linears import INPUT_OF, linear_kernels, with_kernels
from tests.tiny import tiny


def test_names_are_those_of_parameters():
    llama = tiny(1)
    params = named_params(llama)
    kernels = linear_kernels(llama.blocks[0])
    assert list(kernels) == list(INPUT_OF)
    for name, kernel in kernels.items():
        assert kernel is params[f"layers.0.{name}.kernel"]


def test_replacing_and_reading_back():
    block = tiny(1).blocks[0]
    changed = with_kernels(block, {"mlp.down_proj": linear_kernels(block)["mlp.down_proj"] * 2})
    np.testing.assert_array_equal(changed.mlp.down.kernel, block.mlp.down.kernel * 2)
    assert changed.mlp.up is block.mlp.up
    same = with_kernels(block, linear_kernels(block))
    assert jax.tree.structure(same) == jax.tree.structure(block)


def test_missing_sublayers_have_no_linears():
    block = tiny(1).blocks[0].replace(attn=None, attn_norm=None)
    assert list(linear_kernels(block)) == ["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]
