"""`--config=NAME[:ARG]` and `--config.key=value`: found, loaded, overridden."""

import ast
import importlib.util
import inspect
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from absl import flags as absl_flags
from ml_collections import ConfigDict

import jprune
from jprune.core.errors import InputError, unknown

HIDDEN = "(internal)"
OVERRIDES = "config_override"


def define(flags: absl_flags.FlagValues, default: str | None = None) -> None:
    """Defines `--config`; `load` gives the config that it and its overrides ask for."""
    absl_flags.DEFINE_string(
        "config",
        default,
        f"name of a config or path of its file, with a variant after a colon; --config.KEY=VALUE "
        f"changes a key (configs: {', '.join(available())})",
        flag_values=flags,
    )
    absl_flags.DEFINE_multi_string(OVERRIDES, [], HIDDEN, flag_values=flags)


def gather_overrides(argv: Sequence[str]) -> list[str]:
    """`argv` with every `--config.key=value` as a value of the override flag."""
    words, rest = [], list(argv)
    while rest:
        word = rest.pop(0)
        if not word.startswith("--config."):
            words.append(word)
            continue
        key, equals, value = word.removeprefix("--config.").partition("=")
        if not equals:
            if not rest:
                raise InputError(f"{word} needs a value: {word}=...")
            value = rest.pop(0)
        words.append(f"--{OVERRIDES}={key}={value}")
    return words


def load(flags: absl_flags.FlagValues) -> ConfigDict:
    """The config of `--config`, with its `--config.key=value` applied.

    Raises:
        InputError: no config given, or an unknown one, variant or key, or a value of another type.
    """
    if not flags.config:
        raise InputError(f"which config? give --config=NAME (one of {', '.join(available())})")
    overrides = dict(item.split("=", 1) for item in getattr(flags, OVERRIDES))
    return load_config(flags.config, overrides)


def load_config(text: str, overrides: dict[str, str] | None = None) -> ConfigDict:
    """The config that `NAME[:ARG]` or `PATH.py[:ARG]` names, with keys set from text."""
    path, argument = resolve(text)
    module = _import(path)
    if not hasattr(module, "get_config"):
        raise InputError(f"{path} defines no get_config(arg)")
    config = _call(module.get_config, argument, path)
    if not isinstance(config, ConfigDict):
        raise InputError(f"get_config of {path} must give a ml_collections.ConfigDict")
    for key, value in (overrides or {}).items():
        _override(config, key, value)
    return config


def folder() -> Path:
    """Where the configs are: in the package when installed, beside it in a clone."""
    package = Path(jprune.__path__[0]).resolve()
    inside = package / "configs"
    return inside if inside.is_dir() else package.parent / "configs"


def available() -> list[str]:
    """The names of all configs that come with jprune."""
    return sorted(file.stem for file in folder().glob("*.py") if not file.stem.startswith("_"))


def keys_of(text: str | None) -> list[str]:
    """The keys of a config; without one, or with one that does not load, those of all configs."""
    for names in ([text] if text else [], available()):
        try:
            keys = [key for name in names for key in _keys(load_config(name))]
        except InputError:
            continue
        if keys:
            return list(dict.fromkeys(keys))
    return []


def variants(text: str) -> tuple[str, ...]:
    """The variants that a config file declares in its mapping VARIANTS, the default first."""
    path, _ = resolve(text)
    return tuple(getattr(_import(path), "VARIANTS", ()))


def resolve(text: str) -> tuple[Path, str | None]:
    """The file that `text` names, and the part after the colon or None."""
    name, colon, argument = text.partition(":")
    if name.endswith(".py") or "/" in name:
        path = Path(name).expanduser()
        if not path.is_file():
            raise InputError(f"no such config file: {path}")
    else:
        path = folder() / f"{name}.py"
        if name not in available():
            raise unknown("config", name, available())
    return path, argument if colon else None


def _import(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"jprune_config_{path.stem}", path)
    assert spec is not None and spec.loader is not None  # every .py file has both
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"cannot read config {path}: {type(error).__name__}: {error}") from error
    return module


def _call(get_config: Any, argument: str | None, path: Path) -> Any:
    parameters = list(inspect.signature(get_config).parameters.values())
    if argument is not None and not parameters:
        raise InputError(f"config {path.stem} has no variants; write --config={path.stem}")
    needs_one = bool(parameters) and parameters[0].default is inspect.Parameter.empty
    arguments = [argument] if argument is not None else [""] * needs_one
    try:
        return get_config(*arguments)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"config {path} failed: {type(error).__name__}: {error}") from error


def _override(config: ConfigDict, key: str, text: str) -> None:
    *groups, last = key.split(".")
    node: Any = config
    for group in groups:
        node = node[group] if isinstance(node, ConfigDict) and group in node else None
    if not isinstance(node, ConfigDict) or last not in node:
        raise unknown("config key", key, _keys(config))
    if isinstance(node[last], ConfigDict):
        keys = ", ".join(f"{key}.{inner}" for inner in _keys(node[last]))
        hint = f"set one of {keys}" if keys else "and here it has no keys"
        raise InputError(f"config key {key!r} is a group; {hint}")
    value = _converted(key, text, node[last], node.get_type(last))
    with node.unlocked(), node.ignore_type():
        node[last] = value


def _keys(config: ConfigDict) -> Iterable[str]:
    for key in config:
        if isinstance(config[key], ConfigDict):
            yield from (f"{key}.{inner}" for inner in _keys(config[key]))
        else:
            yield key


def _converted(key: str, text: str, default: Any, kind: type) -> Any:
    """`text` as a value of the key's type.

    Every key can be null but one of text that has a default: there it is a text like others.
    """
    if text.lower() in ("null", "none") and (kind is not str or default is None):
        return None
    if kind is str:
        return text
    try:
        if kind is bool:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if kind in (int, float):
            return kind(text)
        if kind in (tuple, list):
            return kind(_items(text, default))
        return _literal(text)
    except (KeyError, ValueError):
        names = {bool: "true or false", int: "an integer", float: "a number"}
        wanted = names.get(kind, f"a {kind.__name__}")
        raise InputError(f"config key {key!r} takes {wanted}, not {text!r}") from None


def _items(text: str, default: Sequence[Any] | None) -> list[Any]:
    if text[:1] in ("(", "["):
        value = ast.literal_eval(text)
        if not isinstance(value, tuple | list):
            raise ValueError(text)
        return list(value)
    kind = type(default[0]) if default else _literal
    return [kind(item.strip()) for item in text.split(",") if item.strip()]


def _literal(text: str) -> Any:
    """A Python literal where `text` is one, else the text itself."""
    words = {"true": True, "false": False}
    try:
        return words[text] if text in words else ast.literal_eval(text)
    except (SyntaxError, ValueError):
        return text
