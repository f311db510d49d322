"""LoRA: low-rank adapters put on a model's projections to be trained, and folded away again."""

import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Key

from jprune.core.errors import InputError, unknown
from jprune.llama.kernels import Kernel, Lora, Masked, fold, is_kernel
from jprune.llama.linears import INPUT_OF, linear_kernels, with_kernels
from jprune.llama.model import Block, Llama, Run
from jprune.transforms.transform import transform

# One layer of the model, or those of a run.
Layers = Int[np.ndarray, "*layers"] | Int[Array, "*layers"]

# The last words of the names of a block's linears: q_proj, k_proj, v_proj, o_proj, gate_proj, ...
TARGETS = tuple(name.rpartition(".")[2] for name in INPUT_OF)


@transform
def add_lora(
    rank: int = 8,
    alpha: int | float = 16,
    dropout: int | float = 0.05,
    targets: Iterable[str] = TARGETS,
    seed: int = 0,
) -> Callable[[Llama], Llama]:
    """Puts an adapter on projections: W becomes W + (alpha / rank) a b, with b = 0 at first.

    The new model computes what the old one does until b is trained. a [in, rank] is uniform in
    +-1 / sqrt(in), which is what PEFT's Kaiming initialiser gives; a and b [rank, out] are float32.
    On a masked kernel the adapter goes below the mask, x ((W + s a b) * mask), so that training
    cannot fill what is pruned. On a mesh, a and b follow the axis that they share with the kernel.

    Reference: Hu et al., LoRA (arXiv 2106.09685), section 4.1.

    Args:
      rank: columns of a.
      alpha: the scale's numerator.
      dropout: rate at which inputs of the update are dropped in training.
      targets: which projections of every block, by the names of `TARGETS`; by default all seven.
        Blocks that lack one are passed over.
      seed: of a; every projection of every layer has numbers of its own, the same in any form.

    Raises:
      InputError: an unknown target or none, a rank, alpha or dropout that cannot be, or a model
        that has no such projection or adapters on it already.
    """
    chosen = _targets(targets)
    _check_numbers(rank, alpha, dropout, seed)

    def adapt(block: Block, layers: Layers) -> Block:
        changed = {}
        for name, kernel in linear_kernels(block).items():
            target = name.rpartition(".")[2]
            if target in chosen:
                key = jax.random.fold_in(jax.random.key(seed), TARGETS.index(target))
                draw = functools.partial(_draw, key, layers, rank=rank)
                changed[name] = _adapted(kernel, draw, alpha / rank, dropout, name)
        return with_kernels(block, changed)

    def apply(llama: Llama) -> Llama:
        parts: list[Block | Run] = []
        first = 0
        for part in llama.blocks:
            if isinstance(part, Run):
                layers = np.arange(first, first + len(part))
                parts.append(part.replace(block=adapt(part.block, layers)))
                first += len(part)
            else:
                parts.append(adapt(part, np.array(first)))
                first += 1
        if not any(map(_is_lora, jax.tree.leaves(parts, is_leaf=_is_lora))):
            raise InputError(f"no block of the model has any of {', '.join(chosen)} to adapt")
        return llama.replace(blocks=tuple(parts))

    return apply


@transform
def fold_lora() -> Callable[[Llama], Llama]:
    """Adds every adapter to the kernel it is on, in float32, and rounds once to that one's dtype.

    Masks stay, and what is under a false mask is exactly zero.

    Reference: Hu et al., LoRA (arXiv 2106.09685), section 4.1.
    """
    return lambda llama: jax.tree.map(_folded, llama, is_leaf=is_kernel)


def _adapted(
    kernel: Kernel,
    draw: Callable[..., Float[Array, "*layers in rank"]],
    scale: float,
    dropout: int | float,
    name: str,
) -> Kernel:
    if isinstance(kernel, Masked):
        return kernel.replace(kernel=_adapted(kernel.kernel, draw, scale, dropout, name))
    if isinstance(kernel, Lora):
        raise InputError(f"{name} has an adapter already; fold it first: chain(fold_lora(), ...)")
    *layers, rows, columns = kernel.shape
    a = draw(rows=rows)
    b = jnp.zeros((*layers, a.shape[-1], columns), jnp.float32)
    if isinstance(kernel, np.ndarray):
        a, b = np.asarray(a), np.asarray(b)
    elif not isinstance(kernel, jax.core.Tracer):
        a, b = (jax.device_put(x, _beside(kernel, axis)) for x, axis in ((a, -2), (b, -1)))
    return Lora(kernel, a, b, scale, dropout)


@functools.partial(jax.jit, static_argnames=("rank", "rows"))
def _draw(
    key: Key[Array, ""], layers: Layers, *, rank: int, rows: int
) -> Float[Array, "*layers in rank"]:
    def of_layer(layer):
        bound = rows**-0.5
        one = jax.random.fold_in(key, layer)
        return jax.random.uniform(one, (rows, rank), jnp.float32, -bound, bound)

    return jax.vmap(of_layer)(layers) if layers.ndim else of_layer(layers)


def _beside(kernel: Array, axis: int) -> jax.sharding.Sharding:
    """Where the factor goes that shares `axis` of a kernel, and has its rank along the other."""
    sharding = kernel.sharding
    if not isinstance(sharding, NamedSharding):
        return sharding
    spec = [*sharding.spec, *(None for _ in range(kernel.ndim - len(sharding.spec)))]
    spec[-1 if axis == -2 else -2] = None
    return NamedSharding(sharding.mesh, PartitionSpec(*spec))


def _is_lora(x: object) -> bool:
    return isinstance(x, Lora)


def _folded(kernel: Kernel) -> Kernel:
    if isinstance(kernel, Masked) and isinstance(kernel.kernel, Lora):
        return kernel.replace(kernel=_folded_array(kernel))
    return _folded_array(kernel) if isinstance(kernel, Lora) else kernel


def _folded_array(kernel: Kernel) -> Array | np.ndarray:
    leaf = jax.tree.leaves(kernel)[0]
    return np.asarray(fold(kernel)) if isinstance(leaf, np.ndarray) else fold(kernel)


def _targets(targets: Iterable[str]) -> tuple[str, ...]:
    chosen = tuple([targets] if isinstance(targets, str) else targets)
    for name in chosen:
        if name not in TARGETS:
            raise unknown("target", str(name), TARGETS)
    if not chosen:
        raise InputError(f"targets is empty; name some of {', '.join(TARGETS)}")
    return chosen


def _check_numbers(rank: Any, alpha: Any, dropout: Any, seed: Any) -> None:
    if type(rank) is not int or rank < 1:
        raise InputError(f"rank takes an integer from 1 on, not {rank!r}")
    if not (isinstance(alpha, int | float) and 0 < alpha < float("inf")):
        raise InputError(f"alpha takes a number above 0, not {alpha!r}")
    if not (isinstance(dropout, int | float) and 0 <= dropout < 1):
        raise InputError(f"dropout takes a number from 0 on and below 1, not {dropout!r}")
    if type(seed) is not int or seed < 0:
        raise InputError(f"seed takes an integer from 0 on, not {seed!r}")
