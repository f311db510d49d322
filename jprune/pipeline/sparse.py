"""Layerwise sparsity as a job: statistics, allocation, masks (or widths), figures, export.

References: DLP (arXiv 2505.23807); Yin et al., OWL (arXiv 2310.05175); Sun et al., Wanda
(arXiv 2306.11695); Frantar and Alistarh, SparseGPT (arXiv 2301.00774).
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float

from jprune.allocate import allocate, is_own, layerwise_patterns, sizes_only
from jprune.checkpoints.mask_files import ARRAYS
from jprune.core.errors import InputError
from jprune.core.files import PathLike, read_json, sha256_json, write_json
from jprune.core.paths import file_stem
from jprune.core.version import __version__
from jprune.data import check_vocabulary
from jprune.evaluate import perplexity
from jprune.llama.blockwise import block_shapes
from jprune.llama.model import Llama
from jprune.pipeline import retraining_estimate, sparse_estimate
from jprune.pipeline.calibration import Calibration
from jprune.pipeline.job import Job
from jprune.pipeline.pruning import PruningRun
from jprune.pipeline.retraining import Retraining
from jprune.pipeline.source import SourceModel, find_model, known_identity
from jprune.pipeline.sparse_config import WIDTH, SparseConfig, sparse_config
from jprune.pipeline.sparse_figures import (
    block_weights,
    mask_figures,
    original_index,
    width_figures,
)
from jprune.pipeline.sparse_pass import mask_pass, prune, width_pass
from jprune.pipeline.stages import Stage
from jprune.scores import WeightStats, weight_stats
from jprune.scores.inputs import offloaded
from jprune.scores.masks import UNSTRUCTURED, parse_pattern
from jprune.scores.sparsify import block_patterns
from jprune.transforms import from_step

STATISTICS = "scores/statistics.json"
ALLOCATION = "scores/allocation.json"


def sparse_job(values: Mapping[str, Any], workdir: PathLike) -> Job:
    """The job of a config for layerwise sparsity; its keys are those of `SparseConfig`.

    Raises:
      InputError: a bad key, model or data source; nothing has been loaded yet.
    """
    config = sparse_config(values)
    # Blocks then go to the device one at a time.
    shardings = "host" if "weights" in offloaded(config.offload) else None
    source = find_model(config.model, config.dtype, known_identity(workdir), shardings)
    _check_fits(config, source.abstract())
    run = SparseRun(config, source, workdir)
    return Job(
        stages=tuple(run.stages()),
        identity={"model": source.identity},
        summary=run.summary,
        estimate=lambda states: (
            sparse_estimate.lines(config, source, states)
            + retraining_estimate.lines(config.retrain, source.abstract(), config.seed)
        ),
    )


class SparseRun(PruningRun):
    """The stages of one run."""

    def __init__(self, config: SparseConfig, source: SourceModel, workdir: PathLike):
        super().__init__(config, source, workdir)
        self.config = config
        self.retraining = Retraining.of(config, source, workdir, self.checkpoint)
        self.calibration = Calibration(config, workdir, self.checkpoint, self.tokenizer)

    def stages(self) -> list[Stage]:
        """Every stage with the keys that it depends on."""
        config = self.config
        data = ("calibration",) if config.pass_reads_data else ()
        before, after = self.evaluation_stages()
        stages = [self.model_stage(), before]
        stages += self.calibration.stages() if config.reads_data else ()
        if any(map(config.needs_statistics, config.allocations)):
            keys = {"outlier_factor": config.outlier_factor}
            needs = ("model", "calibration")
            stages.append(Stage("statistics", keys, self.gather, needs, (STATISTICS,)))
        target = {"sparsity": config.target, "pattern": config.pattern}
        keys = config.allocation_keys(config.allocation) | target
        statistics = self._statistics_needed(config.allocation)
        needs = ("model", "allocation", *data)
        stages += [
            Stage("allocation", keys, self.allocate, ("model", *statistics), (ALLOCATION,)),
            Stage("prune", config.criterion_keys, self.prune, needs, (ARRAYS,)),
            Stage(
                "recipe",
                self.recipe_keys,
                self.make_recipe,
                ("model", "prune"),
                (self.recipe_file,),
            ),
            after,
            *(self._curve_stages(data) if config.curve_windows else ()),
            *self.retraining_stages(),
            *self.saving_stages(),
        ]
        return [*stages, self.report_stage(stages)]

    def summary(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What run.json says, from the values of the finished stages."""
        config, content = self.config, super().summary(values)
        if "curve-dense" in values:
            names = map(curve_stage, config.allocations)
            series = [values[name] for name in names if name in values]
            content["figures"]["sparsity_curve"] = values["curve-dense"] | {
                "criterion": config.criterion,
                "pattern": None if config.criterion == WIDTH else config.pattern,
                "series": series,
            }
        if "prune" in values:
            names = ("criterion", "allocation") + ("pattern",) * (config.criterion != WIDTH)
            asked = {name: getattr(config, name) for name in names}
            content["sparsity"] = asked | {"target": config.target} | values["prune"]["figures"]
        return content

    def gather(self, values: Mapping[str, Any]) -> None:
        """Statistics of the dense model's weights and inputs."""
        llama = self.checkpoint().llama
        stats = weight_stats(
            llama,
            self.calibration.ids(),
            outlier_factor=self.config.outlier_factor,
            offload=self.config.offload,
        )
        content = {name: value.tolist() for name, value in dataclasses.asdict(stats).items()}
        extra = {"layers": self._layers(), "calibration": values["calibration"]}
        write_json(self.root / STATISTICS, content | extra)

    def allocate(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The density of every block, and with N:M its pattern."""
        config = self.config
        density = self._densities(config.allocation, config.target)
        patterns = self._patterns(density)
        content: dict[str, Any] = {
            "allocation": config.allocation,
            "target": config.target,
            "density": density.tolist(),
            "layers": self._layers(),
        } | ({} if patterns is None else {"pattern": patterns})
        write_json(self.root / ALLOCATION, content)
        return {"density": density.tolist(), "pattern": patterns}

    def prune(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Decides what goes from every block, in order; goes on where it was stopped."""
        config, llama = self.config, self.checkpoint().llama
        density = np.asarray(values["allocation"]["density"])
        patterns = values["allocation"]["pattern"]
        ids = self.calibration.ids() if "calibration" in values else None
        key = sha256_json(
            {
                "jprune": __version__,
                "model": self.source.keys,
                "calibration": values.get("calibration"),
                "allocation": values["allocation"],
                **config.criterion_keys,
            }
        )
        folder, itemsize = self.root / ARRAYS, self.source.own_dtype.itemsize
        keep = self.inherited
        if config.criterion == WIDTH:
            assert ids is not None  # width reads data
            step = width_pass(llama, config, ids, density, folder, key, keep)
            figures = width_figures(llama, step, density, itemsize)
        else:
            everywhere = patterns or [UNSTRUCTURED] * llama.num_layers
            step, masks = mask_pass(llama, config, ids, density, everywhere, folder, key, keep)
            figures = mask_figures(llama, masks, density, patterns, itemsize)
        return {"steps": list(step.steps), "figures": figures}

    def make_recipe(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Writes down what was decided."""
        (step,) = values["prune"]["steps"]
        return self.write_recipe(from_step(step, self.root / ARRAYS))

    def measure_dense(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Perplexity of the whole model on the windows of the curve."""
        llama = self.checkpoint().llama
        (first,) = self.evaluation_sets(self.config.eval[:1], self.config.curve_windows)
        check_vocabulary(first.ids, llama.embed.shape[0], first.protocol.data)
        protocol = dataclasses.replace(first.protocol, dtype=str(llama.dtype))
        dense = perplexity(llama, first.ids).ppl
        return {"protocol": protocol.to_json(), "data": protocol.data, "dense": dense}

    def draw_curve(self, allocation: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Perplexity against sparsity under one allocation."""
        config, llama = self.config, self.checkpoint().llama
        (first,) = self.evaluation_sets(config.eval[:1], config.curve_windows)
        ids = self.calibration.ids() if "calibration" in values else None

        def point(target: float) -> tuple[float, float]:
            """Achieved sparsity and perplexity; the pruned model is let go before the next."""
            if allocation == config.allocation and target == config.target:
                achieved = values["prune"]["figures"]["achieved"]
                return achieved, perplexity(self.pruned(values), first.ids).ppl
            density = self._densities(allocation, target)
            patterns = self._patterns(density) or [UNSTRUCTURED] * llama.num_layers
            pruned, achieved = prune(llama, config, ids, density, patterns)
            return achieved, perplexity(pruned, first.ids).ppl

        targets = list(config.curve_targets)
        achieved, ppl = zip(*map(point, targets), strict=True)
        return {"allocation": allocation, "sparsity": targets, "achieved": achieved, "ppl": ppl}

    def _curve_stages(self, data: tuple[str, ...]) -> list[Stage]:
        config = self.config
        keys = self.evaluation_keys | self.data_keys(config.eval[:1])
        keys |= {"curve_windows": config.curve_windows}
        dense = Stage("curve-dense", keys, self.measure_dense, ("model",))
        keys |= config.criterion_keys
        keys |= {"sparsities": list(config.curve_targets), "pattern": config.pattern}
        return [dense] + [
            Stage(
                curve_stage(name),
                keys | config.allocation_keys(name),
                partial(self.draw_curve, name),
                (
                    *("model", *data, *self._statistics_needed(name)),
                    *(("prune", "recipe") if name == config.allocation else ()),
                ),
            )
            for name in config.allocations
        ]

    def _statistics_needed(self, allocation: str) -> tuple[str, ...]:
        return ("statistics",) if self.config.needs_statistics(allocation) else ()

    def _densities(self, allocation: str, target: float) -> Float[np.ndarray, " blocks"]:
        options = self.config.options_for(allocation)
        return allocate(allocation, self._stats(allocation), target, **options)

    def _stats(self, allocation: str) -> WeightStats:
        """The statistics that an allocation reads; block sizes alone where it reads none."""
        if not self.config.needs_statistics(allocation):
            return sizes_only([block_weights(b) for b in block_shapes(self.checkpoint().llama)])
        found = read_json(self.root / STATISTICS)
        fields = (field.name for field in dataclasses.fields(WeightStats))
        return WeightStats(**{name: np.asarray(found[name]) for name in fields})

    def _patterns(self, density: Float[np.ndarray, " blocks"]) -> list[str] | None:
        """N:M of every block; None without a pattern."""
        pattern = parse_pattern(self.config.pattern)
        if pattern is None:
            return None
        sizes = [block_weights(block) for block in block_shapes(self.checkpoint().llama)]
        return [str(one) for one in layerwise_patterns(density, np.asarray(sizes), pattern)]

    def _layers(self) -> list[int]:
        """The original index of every block."""
        origins = self.checkpoint().llama.origins
        return [original_index(origin, index) for index, origin in enumerate(origins)]


def _check_fits(config: SparseConfig, llama: Llama) -> None:
    """Raises InputError if patterns or densities do not fit the model, or options have no sense."""
    block_patterns(config.pattern, llama)
    stats = sizes_only([block_weights(block) for block in block_shapes(llama)])
    known = np.linspace(1, 2, llama.num_layers)  # any will do
    stats = dataclasses.replace(stats, mean=known, median=known, outliers=known)
    for name in config.allocations:
        if not is_own(name):
            try:
                allocate(name, stats, config.target, **config.options_for(name))
            except (TypeError, ValueError) as error:
                raise InputError(f"the options of {name} are wrong: {error}") from None


def curve_stage(allocation: str) -> str:
    """The stage that measures the curve of an allocation."""
    return f"curve-{file_stem(allocation)}"
