import logging
import os
import subprocess
import sys

import jax
import pytest
from jax.sharding import AbstractMesh, PartitionSpec

from jprune.core import InputError, parse_mesh, partition_spec

MESH = AbstractMesh((1, 4, 2), ("data", "fsdp", "tensor"))


@pytest.mark.parametrize("text", ["", "data:1", "fsdp:-1", "data:1,tensor:1"])
def test_one_device(text):
    mesh = parse_mesh(text, jax.devices()[:1])
    assert dict(mesh.shape) == {"data": 1, "fsdp": 1, "tensor": 1}


EIGHT = """
import jax
from jprune.core import parse_mesh
mesh = parse_mesh("tensor:2,fsdp:-1")
assert dict(mesh.shape) == {"data": 1, "fsdp": 4, "tensor": 2}, mesh
assert [d.id for d in mesh.devices[0, 0]] == [0, 1], mesh.devices
assert dict(parse_mesh("").shape) == {"data": 8, "fsdp": 1, "tensor": 1}
x = jax.device_put(jax.numpy.arange(8.0), jax.NamedSharding(mesh, jax.P("fsdp")))
assert x.addressable_shards[0].data.shape == (2,)
"""


def test_eight_devices():
    flags = "--xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", EIGHT],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dta:1", "unknown mesh axis 'dta'; did you mean 'data'"),
        ("data:2,", "mesh 'data:2,' has an empty part; write it as in 'data:2,fsdp:4'"),
        ("data:1,,fsdp:1", "has an empty part"),
        (":2", "unknown mesh axis ''"),
        ("data", "give data a size"),
        ("data:x", "give data a size"),
        ("data:0", "give data a size"),
        ("data:1,data:1", "names the axis data twice"),
        ("data:-1,fsdp:-1", "only one size can be -1"),
        ("data:3,fsdp:5", "needs 15 devices but"),
    ],
)
def test_bad_mesh(text, message):
    with pytest.raises(InputError, match=message):
        parse_mesh(text)


def test_logical_axes():
    assert partition_spec(("hidden", "heads"), (8, 6), MESH) == PartitionSpec("fsdp", "tensor")
    assert partition_spec(("layers", "hidden", None), (3, 8, 5), MESH) == PartitionSpec(
        None, "fsdp", None
    )
    assert partition_spec(("batch", "length"), (8, 7), MESH) == PartitionSpec(
        ("data", "fsdp"), None
    )


def test_axis_that_does_not_divide_is_replicated_and_logged(caplog):
    with caplog.at_level(logging.INFO, logger="jprune"):
        spec = partition_spec(("hidden", "kv_heads"), (8, 3), MESH, name="k_proj")
    assert spec == PartitionSpec("fsdp", None)
    assert "k_proj: axis kv_heads of size 3 is replicated" in caplog.text


def test_mesh_axis_is_used_once_and_size_one_never(caplog):
    with caplog.at_level(logging.INFO, logger="jprune"):
        assert partition_spec(("mlp", "heads"), (8, 8), MESH) == PartitionSpec("tensor", None)
        rules = {"x": "data"}
        assert partition_spec(("x",), (3,), MESH, rules) == PartitionSpec(None)
    assert caplog.text == ""


def test_wrong_axes():
    with pytest.raises(ValueError, match="1 axes for an array of 2"):
        partition_spec(("hidden",), (8, 8), MESH, name="w")
    with pytest.raises(InputError, match="unknown logical axis 'hiden'; did you mean 'hidden'"):
        partition_spec(("hiden",), (8,), MESH)
