"""Which heads and neurons of each block stay: by the L2 norm of Wanda's metric over each.

A key-value head goes with the query heads that it serves; a neuron is a column of gate and up and
a row of down. What a head or neuron weighs is sqrt(sum A^2) over all of its weights, A = |W|
sqrt(s). The lowest go, among equals the earlier.

References: Sun et al., Wanda (arXiv 2306.11695), section 3, for A; Ma et al., LLM-Pruner
(arXiv 2305.11627), section 3.1, for what goes together; DLP (arXiv 2505.23807) for rates per block.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jprune.checkpoints.families import accepts_heads
from jprune.core.errors import InputError, unknown
from jprune.core.processes import to_host
from jprune.core.progress import log
from jprune.llama.config import LlamaConfig
from jprune.llama.kernels import ArrayLike, Leaf, fold_kernels
from jprune.llama.linears import INPUT_OF, linear_kernels, with_kernels
from jprune.llama.model import Block, Llama
from jprune.llama.stack import single_blocks
from jprune.llama.widths import Width, block_width, widths
from jprune.scores.densities import Density, per_block
from jprune.scores.inputs import Inputs, stream
from jprune.scores.masks import metric, pruned_count
from jprune.scores.units import PARTS

SUBLAYERS = PARTS["sublayer"]
STATISTICS = ("pruned", "dense")

Kept = tuple[int, ...] | None


@dataclasses.dataclass(frozen=True)
class Widths:
    """What stays of each block, in order; None stands for all, also where there is nothing.

    Attributes:
      heads: key-value heads per block, each with the query heads that it serves.
      neurons: neurons per block.
      head_scores: of all key-value heads per block; None where they were not compared.
      neuron_scores: of all neurons per block.
    """

    heads: tuple[Kept, ...]
    neurons: tuple[Kept, ...]
    head_scores: tuple[Float[np.ndarray, "_"] | None, ...] = dataclasses.field(compare=False)
    neuron_scores: tuple[Float[np.ndarray, "_"] | None, ...] = dataclasses.field(compare=False)

    def to_json(self) -> dict[str, list[list[int] | None]]:
        """The arguments of `jprune.transforms.narrow`."""

        def plain(kept: Sequence[Kept]) -> list[list[int] | None]:
            return [None if one is None else list(one) for one in kept]

        return {"heads": plain(self.heads), "neurons": plain(self.neurons)}


def choose_widths(
    llama: Llama,
    ids: Int[np.ndarray, "windows length"],
    *,
    density: Density,
    parts: Collection[str] = SUBLAYERS,
    uniform: bool = False,
    multiple: int = 1,
    statistics: str = "pruned",
    done: Sequence[tuple[Kept, Kept]] = (),
    after: Callable[[int, Kept, Kept], None] = lambda index, heads, neurons: None,
    batch_size: int | None = None,
    offload: str = "none",
) -> Widths:
    """Decides which heads and neurons of every block stay, in one pass over the blocks.

    Of d H heads the nearest whole number stays (a half counts up); of N neurons floor((1 - d) N)
    go. At least one of each stays, so a model with one key-value head keeps all of its heads.

    Args:
      llama: the model.
      ids: calibration windows.
      density: d, the share of the heads and of the neurons that stays, in each block or the same in
        all, for example from `jprune.allocate.allocate`.
      parts: what is narrowed: 'attention', 'mlp' or both.
      uniform: the same number of heads and of neurons in every block, by the mean density and the
        narrowest block: one smaller shape that stock models have. Llama's config takes only numbers
        of query heads that divide the hidden size: then the nearest of these, and the log says so.
      multiple: the number of neurons that stay is rounded to a multiple of this, a half up, for
        example 128 for the tiles of matrix units; a block that loses none stays as it is.
      statistics: 'pruned': every block is judged by what the narrowed blocks before it put out;
        'dense': by the inputs of the model as it is.
      done: heads and neurons that stay in the first blocks, from an earlier call that was stopped.
      after: called with each further block's number and what stays of its heads and neurons.
      batch_size: windows per step; by default what suits the device.
      offload: see `jprune.scores.inputs.stream`.

    Raises:
      InputError: an unknown part or statistic, densities that do not fit the model, a multiple
        below 1, blocks of different head groups with `uniform`, activations that are not finite.
    """
    for part in parts:
        if part not in SUBLAYERS:
            raise unknown("part", part, SUBLAYERS)
    if statistics not in STATISTICS:
        raise unknown("statistics", statistics, STATISTICS)
    if multiple < 1:
        raise InputError(f"neurons are rounded to a multiple of 1 or more, not {multiple}")
    densities = per_block(density, llama.num_layers)
    attention, mlp = ("attention" in parts, "mlp" in parts)
    found = [
        Width(w.heads * attention, w.group * attention, w.neurons * mlp) for w in widths(llama)
    ]
    wanted = _uniform_widths if uniform else _own_widths
    targets = wanted(llama.config, found, densities, multiple)
    head_dim = llama.config.head_dim
    kept: list[tuple[Kept, Kept]] = list(done)
    scores: list[tuple[Any, Any]] = [(None, None)] * len(kept)
    dense = statistics == "dense"
    first = itertools.islice(single_blocks(llama), len(kept))

    def visit(index: int, block: Block, inputs: Inputs) -> Block:
        has, target = found[index], targets[index]
        by_head = by_neuron = None
        if has.heads:
            by_head = to_host(head_scores(linear_kernels(block), inputs.squares, has.heads))
        if has.neurons:
            by_neuron = to_host(neuron_scores(linear_kernels(block), inputs.squares))
        scores.append((by_head, by_neuron))
        kept.append((highest(by_head, target.heads), highest(by_neuron, target.neurons)))
        after(index, *kept[-1])
        return block if dense else _silenced(block, *kept[-1], head_dim)

    stream(
        llama,
        ids,
        visit,
        reads_only=dense,
        done=[
            block if dense else _silenced(fold_kernels(block), *stays, head_dim)
            for block, stays in zip(first, done, strict=False)
        ],
        batch_size=batch_size,
        offload=offload,
        label="choosing heads and neurons",
    )
    heads, neurons = zip(*kept, strict=True)
    by_head, by_neuron = zip(*scores, strict=True)
    return Widths(heads, neurons, by_head, by_neuron)


@partial(jax.jit, static_argnames="heads")
def head_scores(
    kernels: Mapping[str, Leaf],
    squares: Mapping[str, Float[ArrayLike, " in"]],
    heads: int,
) -> Float[Array, " heads"]:
    """sqrt(sum A^2) over the columns of q, k and v and the rows of o of each key-value head.

    Args:
      kernels: of a block, by the names of `jprune.llama.linears`.
      squares: s of what they read, see `Inputs`.
      heads: key-value heads of the block.
    """
    total = sum(_squared(f"self_attn.{x}_proj", kernels, squares, 0, heads) for x in "qkv")
    return jnp.sqrt(total + _squared("self_attn.o_proj", kernels, squares, 1, heads))


@jax.jit
def neuron_scores(
    kernels: Mapping[str, Leaf],
    squares: Mapping[str, Float[ArrayLike, " in"]],
) -> Float[Array, " neurons"]:
    """sqrt(sum A^2) over the column of gate, the column of up and the row of down of each neuron.

    Args:
      kernels: of a block, by the names of `jprune.llama.linears`.
      squares: s of what they read, see `Inputs`.
    """
    neurons = kernels["mlp.down_proj"].shape[0]
    total = sum(_squared(f"mlp.{x}_proj", kernels, squares, 0, neurons) for x in ("gate", "up"))
    return jnp.sqrt(total + _squared("mlp.down_proj", kernels, squares, 1, neurons))


def _silenced(block: Block, heads: Kept, neurons: Kept, head_dim: int) -> Block:
    """What puts out what the narrowed block does: of what goes, the rows of o and down are zero.

    All blocks keep one shape, so that one compiled program serves them all.
    """
    kernels = linear_kernels(block)
    rows = {"self_attn.o_proj": (heads, block_width(block, head_dim).group * head_dim)}
    rows |= {"mlp.down_proj": (neurons, 1)}
    silent = {}
    for name, (kept, width) in rows.items():
        if kept is not None:
            kernel = kernels[name]
            stays = np.isin(np.arange(kernel.shape[0]) // width, kept)
            where = np.where if isinstance(kernel, np.ndarray) else jnp.where
            silent[name] = where(stays[:, None], kernel, np.zeros((), kernel.dtype))
    return with_kernels(block, silent)


def _squared(name: str, kernels, squares, axis: int, parts: int) -> Float[Array, " parts"]:
    """Sums of A^2 of a kernel over `axis`, and over each of so many equal parts of the other."""
    a = metric(kernels[name], squares[INPUT_OF[name]])
    return jnp.square(a).sum(axis).reshape(parts, -1).sum(1)


def highest(scores: Float[np.ndarray, " units"] | None, count: int) -> Kept:
    """Indices of the `count` highest scores, rising; among equals the later stay. None: all."""
    if scores is None or count == len(scores):
        return None
    return tuple(sorted(np.argsort(scores, kind="stable")[len(scores) - count :].tolist()))


def kept_heads(heads: int, density: float) -> int:
    """The whole number nearest to heads * density, a half up, at least 1."""
    return max(1, math.floor(heads * density + 0.5 + 1e-9))


def kept_neurons(neurons: int, density: float, multiple: int = 1) -> int:
    """neurons - floor(neurons * (1 - density)), rounded to a multiple, a half up.

    At least one multiple, at most all; where none goes nothing is rounded.
    """
    kept = neurons - pruned_count(neurons, 1 - density)
    if kept == neurons:
        return neurons
    return min(neurons, max(1, math.floor(kept / multiple + 0.5)) * multiple)


def _own_widths(
    config: LlamaConfig,
    found: Sequence[Width],
    densities: Float[np.ndarray, " blocks"],
    multiple: int,
) -> list[Width]:
    """What each block keeps at its density."""
    return [
        Width(
            kept_heads(has.heads, float(d)),
            has.group,
            kept_neurons(has.neurons, float(d), multiple),
        )
        for has, d in zip(found, densities, strict=True)
    ]


def _uniform_widths(
    config: LlamaConfig,
    found: Sequence[Width],
    densities: Float[np.ndarray, " blocks"],
    multiple: int,
) -> list[Width]:
    """The one width that all blocks have afterwards."""
    mean = float(densities.mean())
    heads = min((has.heads for has in found if has.heads), default=0)
    neurons = min((has.neurons for has in found if has.neurons), default=0)
    groups = {has.group for has in found if has.group}
    if len(groups) > 1:
        raise InputError(
            f"blocks differ in query heads per key-value head ({sorted(groups)}), so no width is "
            "the same for all; leave out uniform"
        )
    target = Width(
        _stock_heads(config, heads, groups.pop(), mean) if groups else 0,
        0,
        kept_neurons(neurons, mean, multiple),
    )
    return [target] * len(found)


def _stock_heads(config: LlamaConfig, heads: int, group: int, density: float) -> int:
    """The number of key-value heads nearest to what `density` keeps that a stock config takes."""
    wanted = kept_heads(heads, density)
    taken = [n for n in range(1, heads + 1) if accepts_heads(config, n * group)]
    nearest = min(taken or [wanted], key=lambda n: (abs(n - wanted), -n))
    if nearest != wanted:
        log.warning(
            "%d of %d key-value heads stay instead of %d: the config of %s takes only numbers of "
            "query heads that divide the hidden size %d",
            *(nearest, heads, wanted, config.family, config.hidden_size),
        )
    return nearest
