"""Between a tuple of blocks and runs of equal blocks with a leading layer axis."""

import dataclasses
import itertools
from collections.abc import Collection, Iterator, Sequence
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jprune.llama.kernels import ArrayLike
from jprune.llama.model import Block, Llama, Run


def structure(block: Block) -> tuple:
    """What must be equal for blocks to share a run: tree structure, shapes and dtypes."""
    leaves, treedef = jax.tree.flatten(block.replace(origin=None))
    return treedef, tuple((leaf.shape, leaf.dtype) for leaf in leaves)


def stack(llama: Llama, *, consume: bool = False, cuts: Collection[int] = ()) -> Llama:
    """`llama` with every stretch of equally built blocks stacked in one `Run`.

    Leaf by leaf, so that the peak is the model plus one stacked leaf with `consume`.

    Args:
      llama: a model in any form.
      consume: delete the arrays of each leaf as soon as it is stacked; `llama` is then unusable.
      cuts: blocks at which a new run begins, whatever their structure.
    """
    if llama.blocks and all(isinstance(part, Run) for part in llama.blocks) and not cuts:
        return llama
    numbered = enumerate(_unstacked(llama, consume))

    def kind(item: tuple[int, Block]) -> tuple:
        index, block = item
        return sum(cut <= index for cut in cuts), structure(block)

    groups = ([block for _, block in group] for _, group in itertools.groupby(numbered, key=kind))
    runs = tuple(
        Run(_stack_blocks(group, consume), tuple(block.origin for block in group))
        for group in groups
    )
    return llama.replace(blocks=runs)


def _stack_blocks(blocks: Sequence[Block], consume: bool) -> Block:
    treedef = jax.tree.structure(blocks[0].replace(origin=None))
    columns = zip(*(jax.tree.leaves(block) for block in blocks), strict=True)
    return jax.tree.unflatten(treedef, [_stack_leaf(column, consume) for column in columns])


def _stack_leaf(leaves: Sequence[Array], consume: bool) -> Array:
    stacked = jnp.stack(leaves)
    if consume:
        _delete(leaves, stacked)
    return stacked


def unstack(llama: Llama, *, consume: bool = False) -> Llama:
    """`llama` with every run taken apart into single blocks.

    Args:
      llama: a model in any form.
      consume: delete each stacked array as soon as it is taken apart; `llama` is then unusable.
    """
    return llama.replace(blocks=tuple(_unstacked(llama, consume)))


def _unstacked(llama: Llama, consume: bool) -> list[Block]:
    blocks: list[Block] = []
    for part in llama.blocks:
        blocks.extend(_unstack_run(part, consume) if isinstance(part, Run) else [part])
    return blocks


def single_blocks(llama: Llama) -> Iterator[Block]:
    """The blocks one by one: of a stack, only the one in hand is a copy."""
    for part in llama.blocks:
        if not isinstance(part, Run):
            yield part
            continue
        for index, origin in enumerate(part.origins):
            block = jax.tree.map(lambda leaf, index=index: leaf[index], part.block)
            yield block.replace(origin=origin)


def layers_of(llama: Llama) -> list[Block]:
    """The blocks one by one; those of a run have `LayerSlice` leaves, so nothing is copied yet."""
    blocks: list[Block] = []
    for part in llama.blocks:
        if not isinstance(part, Run):
            blocks.append(part)
            continue
        for index, origin in enumerate(part.origins):
            cut = partial(LayerSlice, index=index)
            blocks.append(jax.tree.map(cut, part.block).replace(origin=origin))
    return blocks


@dataclasses.dataclass(frozen=True)
class LayerSlice:
    """One layer of a stacked array, cut out when it is needed."""

    array: ArrayLike
    index: int

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the layer."""
        return self.array.shape[1:]

    def read(self) -> ArrayLike:
        """The layer's array."""
        return self.array[self.index]


def cut_out(tree):
    """`tree` with every `LayerSlice` replaced by its array."""
    return jax.tree.map(lambda x: x.read() if isinstance(x, LayerSlice) else x, tree)


def _unstack_run(run: Run, consume: bool) -> list[Block]:
    leaves, treedef = jax.tree.flatten(run.block)
    columns = []
    for leaf in leaves:
        columns.append([leaf[index] for index in range(len(run))])
        if consume:
            _delete([leaf], columns[-1])
    # Counted by the origins: blocks without either sublayer have no arrays.
    return [
        jax.tree.unflatten(treedef, [column[index] for column in columns]).replace(origin=origin)
        for index, origin in enumerate(run.origins)
    ]


def _delete(sources: Sequence[Array], results) -> None:
    # The copies run asynchronously: their sources may go only once they are done.
    jax.block_until_ready(results)
    for source in sources:
        if isinstance(source, Array):  # the host's go by themselves
            source.delete()


def take_layers(run: Run, indices: Sequence[int]) -> Run:
    """The run of the blocks at `indices` (not empty), in that order."""
    chosen = jnp.asarray(indices)
    return Run(
        jax.tree.map(lambda leaf: leaf[chosen], run.block),
        tuple(run.origins[index] for index in indices),
    )
