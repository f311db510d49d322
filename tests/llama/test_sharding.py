import dataclasses

import jax
import pytest

from jprune.core.mesh import parse_mesh
from jprune.llama import stack
from jprune.llama.kernels import Lora, Masked
from jprune.llama.names import named_params
from jprune.llama.sharding import logical_axes, on_mesh
from tests.tiny import CONFIG, tiny


@pytest.mark.parametrize("stacked", [False, True])
def test_every_parameter_has_axes(stacked):
    llama = tiny(2, attention_bias=True, output_bias=True, mlp_bias=True, qk_norm=True)
    llama = stack(llama) if stacked else llama
    for name, leaf in named_params(llama).items():
        assert len(logical_axes(name, llama.config)) == leaf.ndim - ("stacked" in name), name


def test_adapters_and_masks_follow_their_kernel():
    name = "layers.0.self_attn.o_proj.kernel"
    assert logical_axes(name, CONFIG) == ("heads", "hidden")
    assert logical_axes(f"{name}.a", CONFIG) == ("heads", None)
    assert logical_axes(f"{name}.b", CONFIG) == (None, "hidden")
    assert logical_axes(f"{name}.kernel", CONFIG) == ("heads", "hidden")
    assert logical_axes(f"{name}.mask", CONFIG) == ("heads", "hidden")
    assert logical_axes(f"{name}.kernel.a", CONFIG) == ("heads", None)


def test_wrapped_kernels_can_be_placed():
    llama = tiny(1)
    block = llama.blocks[0]
    kernel = block.mlp.up.kernel
    adapted = Lora(kernel, kernel[:, :4], kernel[:4], 2.0)
    up = dataclasses.replace(block.mlp.up, kernel=Masked(adapted, kernel > 0))
    mlp = dataclasses.replace(block.mlp, up=up)
    llama = llama.replace(blocks=(block.replace(mlp=mlp),))
    place = on_mesh(parse_mesh("fsdp:2,tensor:4"), CONFIG)
    shards = {
        name.removeprefix("layers.0.mlp.up_proj."): place(name, leaf.shape).shard_shape(leaf.shape)
        for name, leaf in named_params(llama).items()
        if "up_proj" in name
    }
    assert shards == {
        "kernel.kernel.kernel": (16, 14),
        "kernel.kernel.a": (16, 4),
        "kernel.kernel.b": (4, 14),
        "kernel.mask": (16, 14),
    }


def test_unknown_parameters_have_no_axes():
    with pytest.raises(KeyError, match="gate_projection"):
        logical_axes("layers.0.mlp.gate_projection.kernel", CONFIG)


def test_layers_share_one_answer():
    place = on_mesh(parse_mesh("fsdp:8"), CONFIG)
    name = "layers.{}.mlp.up_proj.kernel"
    specs = [place(name.format(layer), (32, 56)).spec for layer in range(3)]
    assert specs[0] is specs[1] is specs[2] == jax.sharding.PartitionSpec("fsdp", None)
