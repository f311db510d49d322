"""Depth pruning as a job: score, remove, evaluate, export, report.

Reference: Kim et al., Shortened LLaMA (arXiv 2402.02834).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jprune.core.files import PathLike
from jprune.data import check_vocabulary
from jprune.pipeline import curve, estimate, retraining_estimate
from jprune.pipeline.depth_config import DepthConfig, check_removal, depth_config
from jprune.pipeline.depth_scores import DepthScores
from jprune.pipeline.job import Job
from jprune.pipeline.pruning import PruningRun
from jprune.pipeline.retraining import Retraining
from jprune.pipeline.source import SourceModel, find_model, known_identity
from jprune.pipeline.stages import Stage
from jprune.scores import select
from jprune.transforms import drop_units


def depth_job(values: Mapping[str, Any], workdir: PathLike) -> Job:
    """The job of a depth pruning config; its keys are those of `DepthConfig`.

    Raises:
      InputError: a bad key, model or data source; nothing has been loaded yet.
    """
    config = depth_config(values)
    source = find_model(config.model, config.dtype, known_identity(workdir))
    check_removal(config, source.num_layers)
    run = DepthRun(config, source, workdir)
    return Job(
        stages=tuple(run.stages()),
        identity={"model": source.identity},
        summary=run.summary,
        estimate=lambda states: (
            estimate.lines(config, source, states)
            + retraining_estimate.lines(config.retrain, source.abstract(), config.seed)
        ),
    )


class DepthRun(PruningRun):
    """The stages of one run."""

    def __init__(self, config: DepthConfig, source: SourceModel, workdir: PathLike):
        super().__init__(config, source, workdir)
        self.config = config
        self.retraining = Retraining.of(config, source, workdir, self.checkpoint)
        self.scores = DepthScores(config, workdir, self.checkpoint, self.tokenizer)

    def stages(self) -> list[Stage]:
        """Every stage with the keys that it depends on."""
        config = self.config
        stages = [
            self.model_stage(),
            *self.scores.stages(),
            Stage(
                "recipe",
                {"remove": config.remove} | self.recipe_keys,
                self.make_recipe,
                ("model", self.scores.stage_name(config.criterion)),
                self.recipe_outputs,
            ),
            *self.evaluation_stages(),
        ]
        if config.curve_windows and config.curve_reach:
            first = self.data_keys(config.eval[:1])
            names = ("curve_windows", "curve_reach", "curve_seeds")
            keys = self.evaluation_keys | first | {name: getattr(config, name) for name in names}
            needs = ("model", *map(self.scores.stage_name, config.criteria))
            stages.append(Stage("curve", keys | self.scores.unit_keys, self.draw_curve, needs))
        stages += [*self.retraining_stages(), *self.saving_stages()]
        return [*stages, self.report_stage(stages)]

    def summary(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What run.json says, from the values of the finished stages."""
        content = super().summary(values)
        if "curve" in values:
            content["figures"]["curve"] = values["curve"]
        return content | {"removed": (values.get("recipe") or {}).get("removed", [])}

    def make_recipe(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Chooses what goes, and writes it down."""
        chosen = select(self.scores.read(self.config.criterion), self.config.remove)
        return {"removed": [unit.to_json() for unit in chosen]} | self.write_recipe(
            drop_units(chosen)
        )

    def draw_curve(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Perplexity against the number of units removed."""
        config, llama = self.config, self.checkpoint().llama
        (first,) = self.evaluation_sets(config.eval[:1], config.curve_windows)
        check_vocabulary(first.ids, llama.embed.shape[0], first.protocol.data)
        paths = {name: self.scores.path(name) for name in (*config.criteria, "last")}
        seeds = {seed: self.scores.path("random", seed=seed) for seed in range(config.curve_seeds)}
        if seeds:  # they say more of random removal than a single one
            paths.pop("random", None)
        every = [*paths.values(), *seeds.values()]
        ppl = curve.perplexities(llama, first.ids, [r for path in every for r in path])
        series = [curve.series(name, path, ppl) for name, path in paths.items()]
        if seeds:
            series.append(curve.random_series(seeds, ppl))
        protocol = dataclasses.replace(first.protocol, dtype=str(llama.dtype))
        return {"protocol": protocol.to_json(), "data": protocol.data, "series": series}
