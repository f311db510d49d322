"""What `jprune run --help` says of configs, and `jprune run --config=NAME --help` of one."""

import ast
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

from jprune.cli import configs

_RETRAIN = {
    "retrain.": ("jprune.pipeline.retrain_config:RetrainConfig",),
    "retrain.lora.": ("jprune.pipeline.groups:LoraConfig",),
    "retrain.train.": ("jprune.retrain:TrainSettings", "jprune.retrain:AdamW"),
}
_DEPTH = {
    "": (
        "jprune.pipeline.pruning_config:PruningConfig",
        "jprune.pipeline.depth_config:DepthConfig",
    ),
    **_RETRAIN,
}
# The dataclasses whose docstrings say what the keys of a job mean; of a group, its own.
KEYS: dict[str, dict[str, tuple[str, ...]]] = {
    "depth": _DEPTH,
    "rounds": {
        **_DEPTH,
        "": (*_DEPTH[""], "jprune.pipeline.rounds:RoundsConfig"),
    },
    "search": {
        "": (
            "jprune.pipeline.pruning_config:PruningConfig",
            "jprune.pipeline.search_config:SearchConfig",
        )
    },
    "sparse": {
        "": (
            "jprune.pipeline.pruning_config:PruningConfig",
            "jprune.pipeline.sparse_config:SparseConfig",
        ),
        **_RETRAIN,
    },
    "finetune": {
        "": ("jprune.pipeline.finetune_config:FinetuneConfig",),
        "lora.": ("jprune.pipeline.groups:LoraConfig",),
        "train.": ("jprune.retrain:TrainSettings", "jprune.retrain:AdamW"),
    },
    "merge": {
        "": (
            "jprune.pipeline.pruning_config:PruningConfig",
            "jprune.pipeline.merging_config:MergingConfig",
        )
    },
    "pretrain": {
        "": ("jprune.pipeline.pretrain_config:PretrainConfig",),
        "architecture.": ("jprune.pipeline.pretrain_config:Architecture",),
        "train.": ("jprune.retrain:TrainSettings", "jprune.retrain:AdamW"),
    },
}
_TYPES = {int: "integer", float: "number", bool: "true or false", tuple: "A,B", str: "text"}


def overview() -> str:
    """Every config with its variants, and how to learn more."""
    lines = ["configs:"]
    for name in configs.available():
        lines.append(f"  {name}: {_headline(name)}")
        lines += (
            [f"      variants: {', '.join(found)}"] if (found := configs.variants(name)) else []
        )
    return "\n".join([*lines, "", "  jprune run --config=NAME --help shows the keys of a config."])


def of_config(text: str) -> str:
    """The keys of a config, with their values and meanings.

    Raises:
      InputError: no such config or variant.
    """
    config = configs.load_config(text)
    lines = [_headline(text)]
    if found := configs.variants(text):
        lines += ["", f"variants, after a colon: {', '.join(found)}"]
    docs = _meanings(str(config.get("job", "depth")))
    lines += ["", "keys:"]
    for key, value, kind in _items(config):
        if key != "job":
            meaning = docs.get(key, "")
            lines.append(f"  --config.{key}={_shown(value)}  ({_TYPES.get(kind, 'value')})")
            lines += textwrap.wrap(meaning, 94, initial_indent=" " * 6, subsequent_indent=" " * 6)
    return "\n".join(lines)


def attribute_docs(kind: type) -> dict[str, str]:
    """What the docstring of a class says under "Attributes:", by name, each on one line."""
    _, _, section = inspect.cleandoc(kind.__doc__ or "").partition("Attributes:\n")
    docs: dict[str, str] = {}
    name = ""
    for line in section.splitlines():
        if found := re.fullmatch(r"  (\w+): (.*)", line):
            name, docs[found[1]] = found[1], found[2]
        elif name and line.startswith("    "):
            docs[name] += f" {line.strip()}"
        else:
            name = ""
    return docs


def _headline(text: str) -> str:
    path, _ = configs.resolve(text)
    return (ast.get_docstring(ast.parse(path.read_text())) or path.stem).splitlines()[0]


def _meanings(job: str) -> dict[str, str]:
    result: dict[str, str] = {}
    for prefix, places in KEYS.get(job, {}).items():
        for place in places:
            module, _, name = place.partition(":")
            docs = attribute_docs(getattr(importlib.import_module(module), name))
            result |= {prefix + key: text for key, text in docs.items()}
    return result


def _items(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any, type]]:
    """The path, value and type of every key; a group without keys has nothing to set."""
    for key in config:
        if isinstance(config[key], ConfigDict):
            yield from _items(config[key], f"{prefix}{key}.")
        else:
            yield prefix + key, config[key], config.get_type(key)


def _shown(value: Any) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ",".join(map(str, value))
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return str(value)
