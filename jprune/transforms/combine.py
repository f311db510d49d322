"""Models put together tensor by tensor from corresponding tensors of others.

Beside the models themselves and the result, memory holds one tensor of each in float32.
"""

import dataclasses
import itertools
import zlib
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jprune.checkpoints.hf_names import is_transposed
from jprune.core.errors import InputError
from jprune.core.mesh import paced
from jprune.llama.blockwise import block_shapes
from jprune.llama.kernels import Kernel, Leaf, Lora, Masked, fold_kernels, is_kernel
from jprune.llama.mixing import mix_tensors
from jprune.llama.model import Block, Llama, Run
from jprune.llama.names import leaf_name
from jprune.llama.stack import LayerSlice, cut_out, layers_of, structure
from jprune.transforms.merge_registry import METHODS, Method, find_method

# Options that jitted functions take as numbers, so that another value is no other program.
_TRACED = ("t", "factor")


@dataclasses.dataclass(frozen=True)
class Combination:
    """How a tensor is made from the corresponding ones of several models.

    Attributes:
      method: how.
      base: which of the models has t0, if any has.
      variants: which have t_1, t_2, ...
      options: of the method, as `Method.check` gives them.
    """

    method: Method
    base: int | None
    variants: tuple[int, ...]
    options: Mapping[str, Any]

    def mix(self, number: int) -> Float[np.ndarray, " sources"] | None:
        """The coefficients of the tensors of `number` models; None if the method is not linear."""
        if self.method.mix is None:
            return None
        row = np.zeros(number, np.float32)
        own = self.method.mix(len(self.variants), **self.options)
        if self.base is not None:
            row[self.base] += own[0]
        np.add.at(row, list(self.variants), own[1:])
        return row

    def tensor(self, name: str, tensors: Sequence[Kernel | LayerSlice], like: Leaf) -> Leaf:
        """The combined tensor.

        Args:
          name: of the tensor, `layers.3.mlp.up_proj.kernel`; layers are counted in the sources.
          tensors: of all models; those that do not take part do not matter.
          like: what has its dtype, and is where it should be.
        """
        return _tensor(name, tensors, self, like.dtype, like)


def combination(
    name: str, options: Mapping[str, Any], base: int | None, variants: Sequence[int]
) -> Combination:
    """A combination by the name of its method; raises InputError, see `Method.check`."""
    method = find_method(name)
    checked = method.check(options, len(variants), base is not None)
    return Combination(method, base, tuple(variants), checked)


def copy_of(source: int) -> Combination:
    """The tensor of one model as it is."""
    return Combination(METHODS["passthrough"], None, (source,), {"scale": 1.0})


def combine(
    sources: Sequence[Llama], layers: Sequence[tuple[int, Combination]], ends: Combination
) -> Llama:
    """A model put together from layers of `sources`, which fit tensor by tensor.

    It has the form (stacked or not), config, dtypes, placement and origins of the first source;
    adapters and masks are folded.

    Args:
      sources: the models, see `check_mergeable`.
      layers: for each layer of the result the layer of the sources, and how it is combined.
      ends: the same of the embeddings, the final norm and the head.
    """
    is_stacked = any(isinstance(part, Run) for part in sources[0].blocks)
    shapes = block_shapes(sources[0])
    views = [_leaves_of_layers(source) for source in sources]
    origins = [shapes[layer].origin for layer, _ in layers]

    def part(group: Sequence[int]) -> Block | Run:
        """Consecutive layers of the result whose blocks are built alike."""
        first = layers[group[0]][0]
        named, treedef = jax.tree_util.tree_flatten_with_path(shapes[first].replace(origin=None))
        leaves = []
        for at, (path, shape) in enumerate(named):
            like = _bottom(views[0][first][at])
            tensors = []
            for layer, how in (layers[number] for number in group):
                name = f"layers.{layer}.{leaf_name(path)}"
                own = [view[layer][at] for view in views]
                tensors.append(_tensor(name, own, how, shape.dtype, like))
            leaves.append(_placed(_stack(tensors), like) if is_stacked else tensors[0])
        block = jax.tree.unflatten(treedef, leaves)
        if is_stacked:
            return Run(block, tuple(origins[number] for number in group))
        return block.replace(origin=origins[group[0]])

    def kind(number: int) -> Any:
        return structure(shapes[layers[number][0]]) if is_stacked else number

    groups = itertools.groupby(range(len(layers)), key=kind)
    blocks = tuple(part(list(group)) for _, group in groups)
    return _combined_ends(sources, ends).replace(blocks=blocks)


def _combined_ends(sources: Sequence[Llama], how: Combination) -> Llama:
    """The first source without blocks, all else combined."""
    flat = [
        jax.tree_util.tree_flatten_with_path(source.replace(blocks=()), is_leaf=is_kernel)
        for source in sources
    ]
    named, treedef = flat[0]
    leaves = []
    for at, (path, leaf) in enumerate(named):
        own = [found[at][1] for found, _ in flat]
        like = _bottom(leaf)
        leaves.append(_tensor(leaf_name(path), own, how, like.dtype, like))
    return jax.tree.unflatten(treedef, leaves)


def _leaves_of_layers(llama: Llama) -> list[list[Any]]:
    """Of every layer its tensors in the order of the tree, kernels whole; none is copied."""
    return [
        jax.tree.leaves(block.replace(origin=None), is_leaf=is_kernel) for block in layers_of(llama)
    ]


def _tensor(name: str, own: Sequence[Any], how: Combination, dtype: Any, like: Leaf) -> Leaf:
    """One tensor of the result from those of the sources, placed like another."""
    mix = how.mix(len(own))
    if mix is None:
        tensor = _by_function(name, own, how, dtype)
    else:
        used = np.flatnonzero(mix) if mix.any() else np.arange(1)
        tensors = [_read(own[int(source)]) for source in used]
        if len(used) == 1 and mix[used[0]] == 1:
            tensor = tensors[0] if tensors[0].dtype == dtype else tensors[0].astype(dtype)
        else:
            tensor = _mix(mix[used], tensors, dtype=np.dtype(dtype))
    return _placed(tensor, like)


@partial(jax.jit, static_argnames="dtype")
def _mix(mix, tensors, dtype):
    return mix_tensors(mix, tensors, dtype)


def _by_function(name: str, own: Sequence[Any], how: Combination, dtype: Any) -> Leaf:
    method, options = how.method, dict(how.options)
    base = None if how.base is None else _read(own[how.base])
    variants = [_read(own[source]) for source in how.variants]
    turned = is_transposed(name)
    if method.is_seeded:
        # Its own numbers for each tensor, whatever form the model has.
        key = jax.random.key(options.pop("seed"))
        options["key"] = jax.random.fold_in(key, zlib.crc32(name.encode()))
    if method.name in METHODS:
        traced = {key: options.pop(key) for key in (*_TRACED, "key") if key in options}
        fixed = tuple(options.items())
        return _jitted(base, variants, traced, method.function, fixed, turned, np.dtype(dtype))
    return _applied(base, variants, options, method, turned, dtype, name)


@partial(jax.jit, static_argnames=("function", "fixed", "turned", "dtype"))
def _jitted(base, variants, traced, function, fixed, turned, dtype):
    base, *variants = (_turned(x, turned) for x in (base, *variants))
    return _turned(function(base, variants, **dict(fixed), **traced), turned).astype(dtype)


def _applied(base, variants, options, method: Method, turned: bool, dtype: Any, name: str) -> Leaf:
    """A function of the user's, which may be anything."""
    base, *variants = (_turned(x, turned) for x in (base, *variants))
    result = method.function(base, variants, **options)
    shape = variants[0].shape
    if getattr(result, "shape", None) != shape:
        raise InputError(
            f"{method.name} should give an array of shape {list(shape)} for {name}, "
            f"not {result!r:.60}"
        )
    return _turned(jnp.asarray(result), turned).astype(dtype)


def _turned(x: Leaf | None, turned: bool) -> Leaf | None:
    """A tensor in float32; `turned` between [in, out] and what Hugging Face stores."""
    if x is None:
        return None
    x = jnp.asarray(x, jnp.float32)
    return x.T if turned else x


def _read(leaf: Kernel) -> Leaf:
    return fold_kernels(cut_out(leaf))


def _bottom(leaf: Kernel | LayerSlice) -> Leaf:
    """The array under adapters and masks, of a whole stack where the leaf is a layer of one."""
    if isinstance(leaf, Lora | Masked):
        return _bottom(leaf.kernel)
    return leaf.array if isinstance(leaf, LayerSlice) else leaf


def _stack(tensors: Sequence[Leaf]) -> Leaf:
    return (np if isinstance(tensors[0], np.ndarray) else jnp).stack(tensors)


def _placed(tensor: Leaf, like: Leaf) -> Leaf:
    """`tensor` on the host or devices where `like` is; it may be a layer of the latter."""
    if isinstance(like, np.ndarray):
        return np.asarray(tensor)
    if isinstance(tensor, jax.core.Tracer) or isinstance(like, jax.core.Tracer):
        return tensor
    if tensor.ndim == like.ndim and getattr(tensor, "sharding", None) != like.sharding:
        tensor = jax.device_put(tensor, like.sharding)
    return paced(tensor)
