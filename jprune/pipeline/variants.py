"""Runs on a model and variants of it: finetunes that are merged or stitched with it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jprune.checkpoints import Checkpoint
from jprune.core.errors import InputError
from jprune.core.files import PathLike, sha256_json
from jprune.llama.model import Llama
from jprune.pipeline.lazy import Lazy
from jprune.pipeline.pruning import PruningRun
from jprune.pipeline.pruning_config import PruningConfig
from jprune.pipeline.source import SourceModel, find_model
from jprune.pipeline.stages import Stage
from jprune.transforms.mergeable import check_mergeable


def find_variants(
    base: SourceModel, paths: Sequence[str], dtype: Any, vocab: str = "same"
) -> tuple[SourceModel, ...]:
    """The variants at some paths or hub ids, each of which fits the base.

    Raises:
      InputError: nothing there, a model that differs from the base, or one given twice.
    """
    variants = tuple(find_model(path, dtype) for path in paths)
    known = {base.sha256: "the model"}
    for variant in variants:
        if variant.sha256 in known:
            raise InputError(
                f"variant {variant.path} is the same as {known[variant.sha256]}; give others"
            )
        known[variant.sha256] = f"variant {variant.path}"
    models = (base, *variants)
    check_mergeable(names_of(models), [model.abstract() for model in models], vocab)
    return variants


def names_of(models: Sequence[SourceModel]) -> list[str]:
    """A name for each model: the last component of its path, numbered where it occurs twice."""
    names: list[str] = []
    for model in models:
        taken = names.count(model.name) + sum(n.startswith(f"{model.name}-") for n in names)
        names.append(f"{model.name}-{taken + 1}" if model.name in names else model.name)
    return names


class VariantsRun(PruningRun):
    """The stages of a run on several models, and what they share: each is loaded once, if at all.

    Args:
      config: of the run.
      source: the base, or the first of the models.
      variants: the further ones.
      workdir: of the run.
    """

    def __init__(
        self,
        config: PruningConfig,
        source: SourceModel,
        variants: Sequence[SourceModel],
        workdir: PathLike,
    ):
        super().__init__(config, source, workdir)
        self.variants = tuple(variants)
        self.names = names_of((source, *variants))
        self.loaded: tuple[Lazy[Checkpoint], ...] = tuple(Lazy(v.load) for v in variants)

    @property
    def identity(self) -> dict[str, dict[str, Any]]:
        """What the workdir belongs to."""
        variants = {
            "name": ", ".join(self.names[1:]),
            "sha256": sha256_json([variant.sha256 for variant in self.variants]),
        }
        return {"model": self.source.identity, "variants": variants}

    def models_stage(self) -> Stage:
        """Loads all models, which checks them, and gives their sizes."""
        keys = self.source.keys | {"variants": [v.sha256 for v in self.variants]}

        def run(values: Mapping[str, Any]) -> dict[str, Any]:
            for lazy in self.loaded:
                lazy()
            return self.describe_model(values)

        return Stage("model", keys, run)

    def variant_stages(self) -> list[Stage]:
        """Perplexity of every variant, as `evaluate-NAME`."""

        def model(number: int) -> Callable[[Any], Llama]:
            return lambda values: self.loaded[number]().llama

        return [
            self.evaluation_stage(name, "model", model(number))
            for number, name in enumerate(self.names[1:])
        ]

    def summary(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What run.json says of the models and their perplexities."""
        content = super().summary(values)
        for name in self.names[1:]:
            if f"evaluate-{name}" in values:
                content["figures"][name] = {"perplexity": values[f"evaluate-{name}"]}
        content["variants"] = [
            {"name": name, "path": variant.path, "sha256": variant.sha256}
            for name, variant in zip(self.names[1:], self.variants, strict=True)
        ]
        return content

    def further(self, index: int, form: str) -> Llama:
        """The variant that a recipe's step names by its index, as `form` wants it."""
        variant = self.variants[self.recipe_indices.index(index)]
        lazy = self.loaded[self.variants.index(variant)]
        if form == "run" or (variant.is_exact and lazy.is_made):
            return lazy().llama
        return variant.load_exact()

    @property
    def recipe_indices(self) -> list[int]:
        """By which numbers steps of the recipe name the variants."""
        return self.first_recipe().with_sources(*self.variants)[1]
