"""Compiles programs for a TPU topology on a host that has none; run as a process of its own.

    python compile_for_tpu.py v5e:2x4 fsdp:4,tensor:2 perplexity:32x2048 perplexity:12x128

Prints JSON: for each program, bytes per chip and how often the splash attention kernel occurs.
"""

import json
import sys
import time

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding

from jprune.core.mesh import parse_mesh, partition_spec
from jprune.evaluate.perplexity import _nll_sums
from jprune.llama import Llama
from jprune.llama.model import anonymous
from jprune.llama.params import llama_spec
from jprune.measure.shapes import shape_named


def main(topology: str, mesh_text: str, programs: list[str]) -> None:
    """Prints the figures of each of `programs`, NAME:WINDOWSxLENGTH, at the Llama-2-7B shape."""
    devices = topologies.get_topology_desc(topology, platform="tpu").devices
    mesh = parse_mesh(mesh_text, devices)
    llama = sharded_model(mesh)
    figures = {}
    with jax.set_mesh(mesh):
        for program in programs:
            name, _, size = program.partition(":")
            windows, length = map(int, size.split("x"))
            figures[program] = figures_of(*PROGRAMS[name](mesh, llama, windows, length))
    print(json.dumps(figures))


def sharded_model(mesh) -> Llama:
    """The model without its arrays, stacked, in bfloat16, its parameters split over `mesh`."""
    shape = shape_named("llama2-7b")
    spec = llama_spec(shape.config, shape.num_layers, stacked=True)

    def parameter(spec):
        sharding = NamedSharding(mesh, partition_spec(spec.axes, spec.shape, mesh, name=""))
        return jax.ShapeDtypeStruct(spec.shape, jnp.bfloat16, sharding=sharding)

    return anonymous(jax.tree.map(parameter, spec))


def array(mesh, shape, dtype, *axes):
    """An array without its numbers, laid out by its logical `axes`."""
    spec = partition_spec(axes, shape, mesh, name="")
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))


def perplexity(mesh, llama, windows, length):
    """The loss of a batch of windows."""
    return _nll_sums, llama, array(mesh, (windows, length), jnp.int32, "batch", None)


PROGRAMS = {"perplexity": perplexity}


def figures_of(function, *args) -> dict[str, float]:
    """What a chip holds while `function` runs, in bytes, and which kernels run."""
    start = time.perf_counter()
    lowered = jax.jit(function).lower(*args)
    memory = lowered.compile().memory_analysis()
    return {
        "arguments": memory.argument_size_in_bytes,
        "temporaries": memory.temp_size_in_bytes,
        "outputs": memory.output_size_in_bytes,
        # jaxlib cannot print every program that libtpu compiles for a v6e.
        "kernels": lowered.as_text().count("tpu_custom_call"),
        "seconds": time.perf_counter() - start,
    }


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
