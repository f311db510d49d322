"""Merging as a job: several models of one shape into one, evaluated beside each of them."""

from collections.abc import Mapping
from typing import Any

from jprune.core.files import PathLike
from jprune.llama.model import count_params
from jprune.pipeline.job import Job
from jprune.pipeline.merging_config import MergingConfig, merging_config
from jprune.pipeline.source import SourceModel, find_model, known_identity
from jprune.pipeline.stages import Stage
from jprune.pipeline.variants import VariantsRun, find_variants
from jprune.report.tables import count, size
from jprune.transforms import merge


def merging_job(values: Mapping[str, Any], workdir: PathLike) -> Job:
    """The job of a config for merging; its keys are those of `MergingConfig`.

    Raises:
      InputError: a bad key, model or data source, or models that do not fit; nothing has been
        loaded yet.
    """
    config = merging_config(values)
    source = find_model(config.model, config.dtype, known_identity(workdir))
    variants = find_variants(source, config.variants, config.dtype, config.vocab)
    run = MergingRun(config, source, variants, workdir)
    return Job(
        stages=tuple(run.stages()),
        identity=run.identity,
        summary=run.summary,
        estimate=lambda states: run.estimate(),
    )


class MergingRun(VariantsRun):
    """The stages of one run."""

    def __init__(
        self,
        config: MergingConfig,
        source: SourceModel,
        variants: tuple[SourceModel, ...],
        workdir: PathLike,
    ):
        super().__init__(config, source, variants, workdir)
        self.config = config

    def stages(self) -> list[Stage]:
        """Every stage with the keys that it depends on."""
        names = ("method", "layers", "ends", "vocab")
        keys = {name: getattr(self.config, name) for name in names}
        keys |= {"options": dict(self.config.options), "merges_model": self.config.merges_model}
        before, after = self.evaluation_stages()
        stages = [
            self.models_stage(),
            Stage("recipe", keys, self.make_recipe, ("model",), self.recipe_outputs),
            before,
            *self.variant_stages(),
            after,
            *self.saving_stages(),
        ]
        return [*stages, self.report_stage(stages)]

    def make_recipe(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Writes down how the models are merged."""
        config, indices = self.config, self.recipe_indices
        given = {name: getattr(config, name) for name in ("layers", "ends")}
        given = {name: value for name, value in given.items() if value is not None}
        transform = merge(
            config.method,
            [0] * config.merges_model + indices,
            vocab=config.vocab,
            sources=lambda index: self.further(index, "run"),
            **given,
            **config.options,
        )
        return self.write_recipe(transform)

    def estimate(self) -> list[str]:
        """Parameters, memory and disk, one line each."""
        parameters = count_params(self.source.abstract())
        models = 2 + len(self.variants)
        memory = models * parameters * self.source.dtype.itemsize
        disk = 2 * parameters * self.source.own_dtype.itemsize
        return [
            f"parameters: {count(parameters)}, as each of the {models - 1} models",
            f"memory: about {size(memory)} in all for the models and the result in "
            f"{self.source.dtype}",
            f"disk: about {size(disk)} for the model and its checkpoint",
        ]
