import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jprune.checkpoints.placement import bytes_per_device, placement, put
from jprune.core import mesh as meshes
from jprune.llama import abstract, count_bytes
from jprune.llama.names import named_params
from tests.tiny import CONFIG, tiny


def test_put_reads_every_part_once():
    mesh = meshes.parse_mesh("data:4,tensor:2")
    values = np.arange(24, dtype=np.float32).reshape(4, 6)
    read = []

    def part(index):
        read.append(values[index].shape)
        return values[index]

    array = put((4, 6), NamedSharding(mesh, PartitionSpec(None, "tensor")), part)
    assert read == [(4, 3), (4, 3)]  # not once for each of the four replicas
    np.testing.assert_array_equal(array, values)
    assert {shard.data.shape for shard in array.addressable_shards} == {(4, 3)}


def test_the_ambient_mesh_is_where_parameters_go_by_default():
    device = jax.devices()[0]
    shape = (32, 56)
    assert placement(None, CONFIG)("norm.weight", (32,)).device_set == {device}
    with meshes.use_mesh("fsdp:2,tensor:4"):
        ambient = placement(None, CONFIG)("layers.1.mlp.up_proj.kernel", shape)
    assert ambient.shard_shape(shape) == (16, 14)
    given = placement(meshes.parse_mesh("fsdp:8"), CONFIG)("layers.1.mlp.up_proj.kernel", shape)
    assert given.shard_shape(shape) == (4, 56)


def test_a_tree_of_shardings_gives_each_parameter_its_own():
    llama = tiny(1)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, llama)
    place = placement(shardings, CONFIG)
    assert place("layers.0.mlp.up_proj.kernel", ()) is shardings.blocks[0].mlp.up.kernel
    with pytest.raises(KeyError, match="nothing"):
        place("nothing", ())


def test_bytes_of_shapes_are_those_of_arrays():
    llama, shapes = tiny(2), abstract(CONFIG, 2)
    assert bytes_per_device(llama) == count_bytes(llama)
    mesh = meshes.parse_mesh("fsdp:8")
    place = placement(mesh, CONFIG)
    placed = {n: jax.device_put(x, place(n, x.shape)) for n, x in named_params(llama).items()}
    assert bytes_per_device(shapes, place) == bytes_per_device(placed) < count_bytes(llama) / 4
