"""The Llama pytree: the structure of the model is the structure of the tree.

A removed sublayer is `None`, a removed block is absent, a narrower block has narrower arrays.
Surgery on a model is therefore tuple slicing and `jax.tree.map`.
"""

import dataclasses

import jax
from flax import struct

from jprune.llama.config import LlamaConfig
from jprune.llama.kernels import Kernel, Leaf


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a block comes from: the model's name and the block's index in it."""

    source: str
    index: int


@struct.dataclass
class Linear:
    """An affine map: kernel [in, out] (see `jprune.llama.kernels`) and an optional bias [out]."""

    kernel: Kernel
    bias: Leaf | None = None


@struct.dataclass
class Attention:
    """Projections of grouped-query attention; head counts are column counts over head_dim.

    Norms of q and k, where there are any, are [head_dim], the same for all heads.
    """

    q: Linear
    k: Linear
    v: Linear
    o: Linear
    q_norm: Leaf | None = None
    k_norm: Leaf | None = None


@struct.dataclass
class Mlp:
    """The gated feed-forward network: down(act(gate(x)) * up(x))."""

    gate: Linear
    up: Linear
    down: Linear


@struct.dataclass
class Block:
    """One Transformer block; norms are [hidden]; a removed sublayer is None, and so is its norm."""

    attn_norm: Leaf | None
    attn: Attention | None
    mlp_norm: Leaf | None
    mlp: Mlp | None
    origin: Origin | None = struct.field(pytree_node=False, default=None)


@struct.dataclass
class Run:
    """Consecutive blocks of equal structure, every leaf with a leading layer axis."""

    block: Block
    origins: tuple[Origin | None, ...] = struct.field(pytree_node=False)

    def __len__(self) -> int:
        return len(self.origins)


@struct.dataclass
class Llama:
    """A Llama-family language model.

    Attributes:
      embed: token embeddings [vocab, hidden].
      blocks: the blocks in order, each by itself (`Block`) or stacked in runs (`Run`).
      final_norm: weight of the norm before the head [hidden].
      lm_head: the head [hidden, vocab], or None where it is tied to `embed`.
    """

    config: LlamaConfig = struct.field(pytree_node=False)
    embed: Leaf
    blocks: tuple[Block | Run, ...]
    final_norm: Leaf
    lm_head: Linear | None

    @property
    def origins(self) -> tuple[Origin | None, ...]:
        """The origin of every block, in order."""
        return tuple(
            origin
            for part in self.blocks
            for origin in (part.origins if isinstance(part, Run) else (part.origin,))
        )

    @property
    def num_layers(self) -> int:
        """How many blocks the model has."""
        return len(self.origins)

    @property
    def dtype(self):
        """The dtype of the activations, which is that of the embeddings."""
        return self.embed.dtype


def anonymous(llama: Llama) -> Llama:
    """`llama` without origins and without the source config.

    Both are static data of the pytree: a jitted function that is given models without them
    compiles once for all models of one structure, whatever they were cut from.
    """
    blocks = tuple(
        part.replace(origins=(None,) * len(part))
        if isinstance(part, Run)
        else part.replace(origin=None)
        for part in llama.blocks
    )
    return llama.replace(config=dataclasses.replace(llama.config, source=""), blocks=blocks)


def count_params(tree) -> int:
    """How many numbers the arrays of `tree` hold."""
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def count_bytes(tree) -> int:
    """How many bytes the arrays of `tree` take."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
