"""Which parameters train: a filtered tree that the optimizer sees, and the frozen rest."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array

from jprune.core.errors import InputError
from jprune.core.trees import matches
from jprune.llama.model import Llama
from jprune.llama.names import leaf_name

Where = str | Iterable[str] | Callable[[str], bool]

# The factors of every adapter, and nothing else.
ADAPTERS = ("**.kernel.a", "**.kernel.b")


@struct.dataclass
class Rest:
    """A Llama without its trained leaves: what `join` needs to put it together again."""

    frozen: dict[str, Array]
    names: tuple[str, ...] = struct.field(pytree_node=False)
    treedef: Any = struct.field(pytree_node=False)


def split(llama: Llama, where: Where = "**") -> tuple[dict[str, Array], Rest]:
    """The parameters that train, by name, and the rest of the model.

    Args:
      llama: a model in tuple or stacked form.
      where: one or several patterns (`jprune.core.trees.matches`) or a predicate, over the names
        of `jprune.llama.names.leaf_name`: `layers.3.self_attn.q_proj.kernel`, in a stack
        `layers.0.stacked.self_attn.q_proj.kernel`. By default everything trains but masks, which
        never do.

    Raises:
      InputError: nothing matches.
    """
    patterns = where if callable(where) or isinstance(where, str) else tuple(where)
    chosen = patterns if callable(patterns) else lambda name: matches(patterns, name)
    leaves, treedef = jax.tree_util.tree_flatten_with_path(llama)
    named = {leaf_name(path): leaf for path, leaf in leaves}
    numbers = (name for name, leaf in named.items() if jnp.issubdtype(leaf.dtype, jnp.floating))
    trained = {name: named[name] for name in numbers if chosen(name)}
    if not trained:
        raise InputError(f"no parameter matches {where!r}; names look like {next(iter(named))!r}")
    frozen = {name: leaf for name, leaf in named.items() if name not in trained}
    return trained, Rest(frozen, tuple(named), treedef)


def join(params: dict[str, Array], rest: Rest) -> Llama:
    """The Llama with `params` in their places: `join(*split(llama, where))` is `llama`."""
    leaves = [params[name] if name in params else rest.frozen[name] for name in rest.names]
    return jax.tree.unflatten(rest.treedef, leaves)
