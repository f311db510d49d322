"""Leaves of a pytree by dotted name, and patterns over those names."""

import fnmatch
from collections.abc import Callable, Iterable
from typing import Any

import jax


def named_leaves(tree: Any) -> dict[str, Any]:
    """The leaves of `tree` by dotted path, in tree order.

    >>> named_leaves({"layers": [{"w": 1}, {"w": 2}]})
    {'layers.0.w': 1, 'layers.1.w': 2}
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {_name(path): leaf for path, leaf in leaves}


def map_named(function: Callable[[str, Any], Any], tree: Any) -> Any:
    """`jax.tree.map` with the dotted name of each leaf as the first argument."""
    return jax.tree_util.tree_map_with_path(lambda path, leaf: function(_name(path), leaf), tree)


def matches(pattern: str | Iterable[str], name: str) -> bool:
    """Whether a dotted `name` matches `pattern`, or one of several patterns.

    Within one component `*`, `?` and `[...]` are as in a shell; `**` stands for any number of
    components, also none.

    >>> matches("layers.*.self_attn.**", "layers.3.self_attn.q_proj.kernel")
    True
    >>> matches("layers.*", "layers.3.mlp")
    False
    """
    patterns = [pattern] if isinstance(pattern, str) else pattern
    return any(_matches(one.split("."), name.split(".")) for one in patterns)


def select(pattern: str | Iterable[str], tree: Any) -> dict[str, Any]:
    """The named leaves of `tree` whose names match."""
    patterns = [pattern] if isinstance(pattern, str) else list(pattern)
    return {name: leaf for name, leaf in named_leaves(tree).items() if matches(patterns, name)}


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _matches(pattern: list[str], name: list[str]) -> bool:
    if not pattern:
        return not name
    first, rest = pattern[0], pattern[1:]
    if first == "**":
        return any(_matches(rest, name[start:]) for start in range(len(name) + 1))
    return bool(name) and fnmatch.fnmatchcase(name[0], first) and _matches(rest, name[1:])
