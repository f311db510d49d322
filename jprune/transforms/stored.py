"""Steps whose result is data: the files that they name, and how arrays take their places."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jprune.checkpoints.placement import put
from jprune.llama.kernels import Leaf, kernel_dtype
from jprune.llama.model import Block, Llama, Run
from jprune.llama.stack import stack

# By op, the argument that lists the SHA-256 of files; these ops leave all shapes as they are.
STORED = {"lora_weights": "blocks", "sparse_weights": "blocks", "trained_weights": "files"}


def stored_digests(steps: Iterable[Mapping[str, Any]]) -> list[str]:
    """SHA-256 of all files that the steps of a recipe name."""
    return [
        digest
        for step in steps
        if step.get("op") in STORED
        for digest in step["args"][STORED[step["op"]]]
    ]


def keeps_shapes(step: Mapping[str, Any]) -> bool:
    """Whether the shapes of a model are the same after a step, which then need not be taken."""
    return step.get("op") in STORED


def with_blocks(llama: Llama, blocks: Sequence[Block]) -> Llama:
    """`llama` with other blocks, in the form that it has."""
    result = llama.replace(blocks=tuple(blocks))
    return stack(result) if any(isinstance(part, Run) for part in llama.blocks) else result


def in_place_of(old: Leaf, new: Leaf) -> Leaf:
    """A new array in the dtype of an old one, or of a kernel, and where that is."""
    dtype = kernel_dtype(old)
    if not isinstance(new, np.ndarray) or isinstance(old, np.ndarray):
        return new.astype(dtype)
    if isinstance(old, jax.Array) and not isinstance(old, jax.core.Tracer):
        return put(new.shape, old.sharding, new.astype(dtype).__getitem__)
    return jnp.asarray(new, dtype)
