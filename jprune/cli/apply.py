"""Rebuilds a model from its recipe: the same sources and steps give the same weights.

    jprune apply --recipe=PRUNED/recipe.json --out=AGAIN
    jprune apply --recipe=MERGED/recipe.json --model=BASE --sources=MATH,CODE --out=AGAIN

Every model that jprune saves has its recipe.json. The sources are where the recipe says; if they
have moved or the recipe names none, the first is at --model and the others, which merges need, at
--sources.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl.flags import FlagValues

from jprune.checkpoints import Checkpoint, load_checkpoint
from jprune.checkpoints.mask_files import find_arrays
from jprune.cli import common, flag
from jprune.cli.parsing import Flags
from jprune.core.errors import InputError
from jprune.core.files import as_path, read_json
from jprune.llama.model import Llama
from jprune.transforms import Recipe
from jprune.transforms.stored import stored_digests


def define(flags: FlagValues) -> None:
    """The flags of `jprune apply`."""
    common.define_common(flags, "folder for the model")
    flag.text(flags, "recipe", None, "the recipe, JSON")
    flag.texts(flags, "sources", "where the recipe's other sources are, in its order")
    common.define_format(flags)


def run(flags: Flags) -> int:
    """Loads the sources, applies the steps, saves, prints."""
    common.one_of(flags, "to", common.FORMATS)
    common.need(flags, "recipe", "out")
    recipe = Recipe.from_json(read_json(flags.recipe))
    recipe.transform()  # unknown steps are refused before anything is looked for
    source = _source(flags, recipe)
    if not flags.model:
        flags["model"].value = str(source["path"])
    others = _other_paths(flags, recipe)
    arrays = find_arrays(as_path(flags.recipe).parent, stored_digests(recipe.steps))
    sources = _loader(flags, recipe, others)
    transform = recipe.transform(arrays, sources)
    common.check_out_folder(flags, others)
    checkpoint = common.load(flags, default_dtype="checkpoint")
    _check_source(flags, "--model", flags.model, source, checkpoint)
    if not recipe.sources:
        model = Recipe.of_model(None, checkpoint.name, flags.model, checkpoint.sha256)
        recipe = dataclasses.replace(recipe, sources=model.sources)
    result = transform(checkpoint.llama)
    common.save_model(flags.out, flags.to, result, checkpoint.tokenizer, recipe)
    steps = len(recipe.steps)
    print(f"{checkpoint.name} after {steps} step{'s' * (steps != 1)} of {flags.recipe}\n")
    print(common.size_table(checkpoint.llama, result))
    return 0


def _source(flags: Flags, recipe: Recipe) -> Mapping[str, Any]:
    """The first source of the recipe; empty if it names none and --model stands in for it."""
    if not recipe.sources:
        if flags.model:
            return {}
        raise InputError(
            f"{flags.recipe} names 0 sources; its steps need exactly one: give --model=..."
        )
    if not (flags.model or recipe.sources[0].get("path")):
        raise InputError(f"{flags.recipe} does not say where its source is; give --model=...")
    return recipe.sources[0]


def _other_paths(flags: Flags, recipe: Recipe) -> list[str]:
    """Where the further sources are."""
    others = recipe.sources[1:]
    if flags.sources:
        if len(flags.sources) != len(others):
            raise InputError(
                f"--sources names {len(flags.sources)} models, but {flags.recipe} has "
                f"{len(others)} sources after the first ({_names(others)}); give one for each"
            )
        return list(flags.sources)
    for index, source in enumerate(others, 1):
        if not source.get("path"):
            raise InputError(
                f"{flags.recipe} does not say where its source {index} is; "
                f"give all after the first ({_names(others)}) with --sources=..."
            )
    return [str(source["path"]) for source in others]


def _loader(flags: Flags, recipe: Recipe, paths: Sequence[str]) -> Callable[[int], Llama]:
    """Loads the further sources by index, each once and not before a step needs it."""

    @functools.cache
    def load(index: int) -> Llama:
        if not 0 < index < len(recipe.sources):
            raise InputError(
                f"a step of {flags.recipe} needs source {index}, but it names "
                f"{len(recipe.sources)}, of which the first is 0"
            )
        path = paths[index - 1]
        checkpoint = load_checkpoint(path, dtype=flags.dtype or "checkpoint")
        _check_source(flags, "--sources", path, recipe.sources[index], checkpoint)
        return checkpoint.llama

    return load


def _names(sources: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(str(source.get("name", "unnamed")) for source in sources) or "none"


def _check_source(
    flags: Flags, flag_name: str, path: str, source: Mapping[str, Any], checkpoint: Checkpoint
) -> None:
    wanted = source.get("sha256")
    if wanted and wanted != checkpoint.sha256:
        raise InputError(
            f"{path} is not the source of {flags.recipe}: its SHA-256 is "
            f"{checkpoint.sha256[:12]}..., not {str(wanted)[:12]}...; "
            f"give the right {source.get('name', 'model')} with {flag_name}=..."
        )
