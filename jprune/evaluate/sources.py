"""The models that candidates are made of, and any block of a candidate from theirs."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from jprune.core.errors import InputError
from jprune.core.mesh import paced
from jprune.core.processes import to_host
from jprune.evaluate.candidates import sublayers
from jprune.evaluate.plans import Combination, Mixture, Step
from jprune.llama.blockwise import blocks, ends, on_device
from jprune.llama.kernels import ArrayLike, fold_kernels
from jprune.llama.mixing import mix_tensors
from jprune.llama.model import Block, Llama
from jprune.llama.names import leaf_name, named_params
from jprune.llama.stack import unstack


@dataclasses.dataclass(frozen=True)
class Sources:
    """Corresponding parts of a base and its variants, on the device, adapters and masks folded.

    Attributes:
      all_ends: what each has before and after the blocks, the base first.
      all_blocks: the blocks of each.
    """

    all_ends: tuple[Llama, ...]
    all_blocks: tuple[tuple[Block, ...], ...]

    @staticmethod
    def of(base: Llama, variants: Sequence[Llama] = ()) -> "Sources":
        """The sources from models in any form; single blocks on the device are not copied.

        Embeddings, norm and head of a variant that are the base's bit for bit are held once.

        Raises:
          InputError: a variant whose tensors are not those of the base, by name and shape.
        """
        _check_tensors(base, variants)
        first, *others = (fold_kernels(on_device(ends(llama))) for llama in (base, *variants))
        all_blocks = tuple(tuple(blocks(llama)) for llama in (base, *variants))
        return Sources((first, *(_sharing(first, other) for other in others)), all_blocks)

    def __len__(self) -> int:
        return len(self.all_ends)

    @property
    def there(self) -> list[tuple[bool, bool]]:
        """Of every layer, whether its attention and its MLP exist."""
        return [(block.attn is not None, block.mlp is not None) for block in self.all_blocks[0]]

    def block(self, step: Step) -> Block:
        """The block that a step runs, see `_made`."""
        own = [sublayers(found[step.layer], step.attn, step.mlp) for found in self.all_blocks]
        return _made(step.mixture, own, f"layers.{step.layer}.")

    def ends(self, mixture: Mixture) -> Llama:
        """The ends of a candidate, see `_made`."""
        return _made(mixture, self.all_ends, "")


def _made(mixture: Mixture, own: Sequence[Any], prefix: str) -> Any:
    """A tree made from the corresponding ones of all sources, with the dtypes of the first.

    Where it is one of them as it is, its arrays are that one's. Else they are computed, by
    coefficients in one pass over all sources, so that every step runs the same program; or tensor
    by tensor.
    """
    if mixture.mix is None:
        return _by_tensor(mixture.row.combination(), own, prefix)
    used = [number for number, factor in enumerate(mixture.mix) if factor != 0]
    if len(used) == 1 and mixture.mix[used[0]] == 1:
        return jax.tree.map(_as, own[used[0]], own[0])
    return paced(_mixed(np.asarray(mixture.mix, np.float32), tuple(own)))


def _by_tensor(how: Combination, own: Sequence[Any], prefix: str) -> Any:
    named, treedef = jax.tree_util.tree_flatten_with_path(own[0])
    columns = zip(*map(jax.tree.leaves, own), strict=True)
    leaves = [
        how.tensor(prefix + leaf_name(path), column, like)
        for (path, like), column in zip(named, columns, strict=True)
    ]
    return jax.tree.unflatten(treedef, leaves)


@jax.jit
def _mixed(mix: Float[ArrayLike, " sources"], trees: tuple[Any, ...]) -> Any:
    return jax.tree.map(lambda *tensors: mix_tensors(mix, tensors), *trees)


def _as(x: Array, like: Array) -> Array:
    return x if x.dtype == like.dtype else x.astype(like.dtype)


def _sharing(first: Llama, other: Llama) -> Llama:
    """`other` with the arrays and the config of `first`, but for arrays that differ."""

    def one(a: Array, b: Array) -> Array:
        same = a is b or (a.dtype == b.dtype and bool(to_host(_same_bits(a, b))))
        return a if same else b

    return jax.tree.map(one, first, dataclasses.replace(other, config=first.config))


@jax.jit
def _same_bits(a: Array, b: Array) -> Bool[Array, ""]:
    kind = f"uint{8 * a.dtype.itemsize}"
    a, b = (jax.lax.bitcast_convert_type(x, kind) for x in (a, b))
    return jnp.all(a == b)


def _check_tensors(base: Llama, variants: Sequence[Llama]) -> None:
    wanted = _tensor_shapes(base)
    for number, variant in enumerate(variants):
        found = _tensor_shapes(variant)
        for name in {**wanted, **found}:
            if wanted.get(name) != found.get(name):
                raise InputError(
                    f"variant {number} does not fit the base: {name} is {_words(wanted, name)} in "
                    f"the base and {_words(found, name)} in the variant; only models of one shape "
                    "can be stitched"
                )


def _tensor_shapes(llama: Llama) -> dict[str, list[int]]:
    shapes = jax.eval_shape(lambda model: fold_kernels(unstack(model)), llama)
    return {name: list(leaf.shape) for name, leaf in named_params(shapes).items()}


def _words(shapes: Mapping[str, list[int]], name: str) -> str:
    return str(shapes[name]) if name in shapes else "missing"
