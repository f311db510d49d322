"""Compiles programs for a TPU topology on a host that has none; run as a process of its own.

    python compile_for_tpu.py v5e:2x4 fsdp:4,tensor:2 perplexity:32x2048 taylor:12x128

Prints JSON: for each job, the bytes that a chip holds and how often splash attention occurs.
"""

import functools
import json
import math
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

from jprune.checkpoints.placement import bytes_per_device
from jprune.core.mesh import parse_mesh, partition_spec
from jprune.evaluate import candidates
from jprune.llama import Llama, named_params, stack
from jprune.llama.blockwise import advance, ends, nll_sums, start
from jprune.llama.model import anonymous
from jprune.llama.names import leaf_name
from jprune.llama.params import llama_spec
from jprune.measure.shapes import shape_named
from jprune.retrain import ADAPTERS, AdamW, Batch, adamw, next_token_loss, split, train_step
from jprune.retrain.step import init_state
from jprune.scores import taylor
from jprune.transforms import add_lora


def main(topology: str, mesh_text: str, jobs: list[str]) -> None:
    """Prints the figures of each of `jobs`, NAME:WINDOWSxLENGTH, at the Llama-2-7B shape."""
    devices = topologies.get_topology_desc(topology, platform="tpu").devices
    mesh = parse_mesh(mesh_text, devices)
    llama, figures = sharded_model(mesh), {}
    with jax.set_mesh(mesh):
        for job in jobs:
            name, _, size = job.partition(":")
            windows, length = map(int, size.split("x"))
            ids = array(mesh, (windows, length), jnp.int32, "batch", None)
            figures[job] = figures_of(llama, *JOBS[name](mesh, llama, ids))
    print(json.dumps(figures))


def sharded_model(mesh) -> Llama:
    """The model without its arrays, in bfloat16, its parameters split over `mesh`."""
    shape = shape_named("llama2-7b")

    def parameter(spec):
        sharding = NamedSharding(mesh, partition_spec(spec.axes, spec.shape, mesh, name=""))
        return jax.ShapeDtypeStruct(spec.shape, jnp.bfloat16, sharding=sharding)

    return anonymous(jax.tree.map(parameter, llama_spec(shape.config, shape.num_layers)))


def array(mesh, shape, dtype, *axes):
    """An array without its numbers, laid out by its logical `axes`."""
    spec = partition_spec(axes, shape, mesh, name="")
    return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))


def states_of(mesh, llama, ids):
    """The residual stream of a batch, and the context of the pass."""
    h, ctx = jax.eval_shape(start, ends(llama), ids)
    h = array(mesh, h.shape, h.dtype, "batch", None, None)
    whole = functools.partial(array, mesh)
    return h, jax.tree.map(lambda x: whole(x.shape, x.dtype, *(None,) * len(x.shape)), ctx)


# Each job: the programs that it runs, and what it holds between them beside the model.


def perplexity(mesh, llama, ids):
    """Perplexity: one residual stream, block by block."""
    h, ctx = states_of(mesh, llama, ids)
    programs = [
        (start, ends(llama), ids),
        (advance, llama.blocks[0], h, ctx),
        (nll_sums, ends(llama), h, ids),
    ]
    return programs, [h]


def leave_one_out(mesh, llama, ids):
    """Perplexity without each block: the streams of all candidates, several in a product."""
    h, ctx = states_of(mesh, llama, ids)
    several = (h,) * candidates._width(math.prod(ids.shape))
    programs = [
        (start, ends(llama), ids),
        *((candidates._advance, llama.blocks[0], states, ctx) for states in ((h,), several)),
        (nll_sums, ends(llama), h, ids),
    ]
    return programs, [h] * (1 + llama.num_layers)


def taylor_scores(mesh, llama, ids):
    """First-order saliency: every block's input and what it keeps, and one block's gradient."""
    h, ctx = states_of(mesh, llama, ids)
    keep, block = True, llama.blocks[0]
    _, kept = jax.eval_shape(functools.partial(taylor._advance, keep=keep), block, h, ctx)
    kept = [array(mesh, x.shape, x.dtype, "batch", *(None,) * (len(x.shape) - 1)) for x in kept]
    programs = [
        (start, ends(llama), ids),
        (functools.partial(taylor._advance, keep=keep), block, h, ctx),
        (taylor._cotangent, ends(llama), h, ids, array(mesh, ids.shape[:1], np.float32, "batch")),
        (functools.partial(taylor._backward, keep=keep), block, ctx, h, kept, h),
        (functools.partial(taylor._part_saliency, power=1.0), block, block),
    ]
    return programs, [h, kept] * llama.num_layers


def lora(mesh, llama, ids):
    """A step of LoRA training on all projections: micro-batches of 16 windows, recomputed.

    Without dropout, whose random numbers take the compiler minutes.
    """
    adapted = jax.eval_shape(lambda llama: add_lora(dropout=0.0)(stack(llama)), llama)
    specs = {name: leaf.sharding.spec for name, leaf in named_params(llama).items()}

    def sharding(name):
        """That of a parameter of the stack, an adapter's beside its kernel."""
        stem, factor = re.fullmatch(r"(.*?)(?:\.kernel\.(kernel|a|b))?", name).groups()
        if factor:
            stem += ".kernel"
        spec = [*specs[stem.replace("stacked.", "")]]
        spec = {"a": [spec[0], None], "b": [None, spec[-1]]}.get(factor, spec)
        stacked = [None] if "stacked" in name else []
        return NamedSharding(mesh, PartitionSpec(*stacked, *spec))

    def place(path, leaf):
        place = sharding(leaf_name(path))
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

    params, rest = split(jax.tree_util.tree_map_with_path(place, adapted), ADAPTERS)
    optimizer = adamw(AdamW(), 1000)
    state = jax.eval_shape(lambda params: init_state(params, optimizer), params)

    def place_state(path, leaf):
        names = [key.key for key in path if hasattr(key, "key")]
        place = params[names[-1]].sharding if names else NamedSharding(mesh, PartitionSpec())
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place)

    state = jax.tree_util.tree_map_with_path(place_state, state)
    shape = (ids.shape[0] // 16, 16, ids.shape[1])
    axes = (None, "batch", None)
    batch = Batch(*(array(mesh, shape, dtype, *axes) for dtype in (jnp.int32, bool)))

    def step(state, rest, batch):
        objective = jax.tree_util.Partial(next_token_loss)
        how = {"optimizer": optimizer, "dtype": jnp.bfloat16, "remat": True}
        return train_step(state, rest, batch, jax.random.key(0), objective, **how)

    return [(step, state, rest, batch)], [state]


JOBS = {
    "perplexity": perplexity,
    "leave_one_out": leave_one_out,
    "taylor": taylor_scores,
    "lora": lora,
}


def figures_of(llama, programs, held) -> dict[str, float]:
    """What a chip holds while a job runs, in bytes, and which kernels run."""
    used, arguments, kernels = [], 0, 0
    for function, *args in programs:
        lowered = jax.jit(function, keep_unused=True).lower(*args)
        memory = lowered.compile().memory_analysis()
        used.append(memory.temp_size_in_bytes + memory.output_size_in_bytes)
        arguments += memory.argument_size_in_bytes
        # jaxlib cannot print every program that libtpu compiles for a v6e.
        kernels += lowered.as_text().count("tpu_custom_call")
    return {
        "model": bytes_per_device(llama),
        "held": bytes_per_device(held),
        "programs": max(used),
        # What all programs read: as the compiler has it, and as it was asked to be laid out.
        "arguments": arguments,
        "share": sum(bytes_per_device(args) for _, *args in programs),
        "kernels": kernels,
    }


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
