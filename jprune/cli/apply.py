"""Rebuilds a model from its recipe: the same sources and steps give the same weights.

    jprune apply --recipe=PRUNED/recipe.json --out=AGAIN

Every model that jprune saves has its recipe.json. The source is where the recipe says, or at
--model if it has moved or the recipe names none.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from absl.flags import FlagValues

from jprune.checkpoints import Checkpoint
from jprune.cli import common, flag
from jprune.cli.parsing import Flags
from jprune.core.errors import InputError
from jprune.core.files import as_path, read_json
from jprune.transforms import Recipe
from jprune.transforms.transform import ARRAYS


def define(flags: FlagValues) -> None:
    """The flags of `jprune apply`."""
    common.define_common(flags, "folder for the model")
    flag.text(flags, "recipe", None, "the recipe, JSON")
    common.define_format(flags)


def run(flags: Flags) -> int:
    """Loads the source, applies the steps, saves, prints."""
    common.one_of(flags, "to", common.FORMATS)
    common.need(flags, "recipe", "out")
    recipe = Recipe.from_json(read_json(flags.recipe))
    transform = recipe.transform(as_path(flags.recipe).parent / ARRAYS)
    source = _source(flags, recipe)
    if not flags.model:
        flags["model"].value = str(source["path"])
    common.check_out_folder(flags)
    checkpoint = common.load(flags, default_dtype="checkpoint")
    _check_source(flags, source, checkpoint)
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
    """The source that the recipe names; empty if it names none and --model stands in for it."""
    sources = recipe.sources
    if not sources and flags.model:
        return {}
    if len(sources) != 1:
        hint = "" if sources else ": give --model=..."
        raise InputError(
            f"{flags.recipe} names {len(sources)} sources; its steps need exactly one{hint}"
        )
    if not (flags.model or sources[0].get("path")):
        raise InputError(f"{flags.recipe} does not say where its source is; give --model=...")
    return sources[0]


def _check_source(flags: Flags, source: Mapping[str, Any], checkpoint: Checkpoint) -> None:
    wanted = source.get("sha256")
    if wanted and wanted != checkpoint.sha256:
        raise InputError(
            f"{flags.model} is not the source of {flags.recipe}: its SHA-256 is "
            f"{checkpoint.sha256[:12]}..., not {str(wanted)[:12]}...; "
            f"give the right {source.get('name', 'model')} with --model=..."
        )
