"""Search as a job: objectives, a study, the best model built, and what it is compared with.

Reference: GPTailor (arXiv 2506.20480).
"""

import io
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jprune.core.files import PathLike, as_path, sha256_json, write_bytes, write_json
from jprune.core.version import __version__
from jprune.evaluate import Removal, StitchedModels
from jprune.llama.model import Llama, count_params
from jprune.pipeline.job import Job
from jprune.pipeline.lazy import Lazy
from jprune.pipeline.search_comparisons import Comparisons
from jprune.pipeline.search_config import SearchConfig, search_config
from jprune.pipeline.source import SourceModel, find_model, known_identity
from jprune.pipeline.stages import Stage
from jprune.pipeline.variants import VariantsRun, find_variants
from jprune.report.tables import count, size
from jprune.scores import parse_layers
from jprune.search import (
    Candidate,
    DropSpace,
    Objective,
    SearchResult,
    Space,
    StitchSpace,
    run_study,
    warm_starts,
)
from jprune.transforms import drop_units, stitch

OBJECTIVES = "objectives.npz"
SEARCH = "search"
RESULT = f"{SEARCH}/result.json"
JOURNAL = "journal.log"


def search_job(values: Mapping[str, Any], workdir: PathLike) -> Job:
    """The job of a config for a search; its keys are those of `SearchConfig`.

    Raises:
      InputError: a bad key, model or data source, or models that do not fit; nothing has been
        loaded yet.
    """
    config = search_config(values)
    source = find_model(config.model, config.dtype, known_identity(workdir))
    variants = find_variants(source, config.variants, config.dtype)
    run = SearchRun(config, source, variants, workdir)
    return Job(
        stages=tuple(run.stages()),
        identity=run.identity,
        summary=run.summary,
        estimate=lambda states: run.estimate(),
    )


class SearchRun(VariantsRun):
    """The stages of one run."""

    def __init__(
        self,
        config: SearchConfig,
        source: SourceModel,
        variants: tuple[SourceModel, ...],
        workdir: PathLike,
    ):
        super().__init__(config, source, variants, workdir)
        self.config = config
        self.space = self._space(source)
        self.windows = Lazy(self._read_windows)
        self.models: Lazy[StitchedModels] = Lazy(
            lambda: StitchedModels(self.checkpoint().llama, [lazy().llama for lazy in self.loaded])
        )
        self.comparisons = Comparisons(self)

    def stages(self) -> list[Stage]:
        """Every stage with the keys that it depends on."""
        config = self.config
        drawn = self.data_keys(config.objectives) | {"protocol": config.protocol}
        drawn |= {"search_windows": config.search_windows, "seed": config.seed}
        before, after = self.evaluation_stages()
        needs = ("objectives", *(stage.name for stage in self.comparisons.score_stages()))
        stages = [
            self.models_stage(),
            before,
            *self.variant_stages(),
            Stage("objectives", drawn, self.draw_objectives, ("model",), (OBJECTIVES,)),
            *self.comparisons.score_stages(),
            Stage("search", self.search_keys(self.space), self.search, needs, (SEARCH,)),
            Stage("recipe", {}, self.make_recipe, ("model", "search"), self.recipe_outputs),
            after,
            *self.comparisons.stages(),
            *self.saving_stages(),
        ]
        return [*stages, self.report_stage(stages)]

    def summary(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What run.json says, from the values of the finished stages."""
        content = super().summary(values)
        for name in self.comparisons.names:
            if name in values:
                compared = dict(values[name])
                content["figures"][name] = {"perplexity": compared.pop("perplexity")}
                content.setdefault("comparisons", {})[name] = compared
        found = values.get("search")
        if found:
            content["search"] = found
            content["removed"] = found["candidate"]["removed"]
        return content

    def draw_objectives(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Draws the windows of every objective and keeps their ids."""
        config = self.config
        sets = self.evaluation_sets(config.objectives, None)
        rng = np.random.default_rng(config.seed)
        drawn = {}
        for name, one in zip(config.objectives, sets, strict=True):
            order = rng.permutation(len(one.ids))
            drawn[name] = one.ids[np.sort(order[: config.search_windows])]
        buffer = io.BytesIO()
        np.savez(buffer, *drawn.values())
        write_bytes(self.root / OBJECTIVES, buffer.getvalue())
        self.windows.clear()
        return {
            name: {"windows": len(ids), "protocol": one.protocol.to_json()}
            for (name, ids), one in zip(drawn.items(), sets, strict=True)
        }

    def search(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Searches, or goes on with a search that was stopped; gives the best candidate."""
        scores = [self.comparisons.scores(number) for number in range(len(self.names))]
        starts = warm_starts(self.space, scores[0], variant_scores=scores[1:])
        result = self.study(self.space, SEARCH, self._evaluate, starts)
        write_json(self.root / RESULT, result.to_json())
        return {
            "candidate": result.candidate.to_json(),
            "objectives": list(self.config.objectives),
            "base": list(result.base),
            "values": list(result.incumbent.values or ()),
            "score": result.incumbent.score,
            "trials": result.counts(),
            "front": [row.to_json() for row in result.front],
            "curve": [{"trials": p["trials"], "score": p["score"]} for p in result.curve],
        }

    def make_recipe(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Writes down how the best candidate is made."""
        candidate = Candidate.from_json(values["search"]["candidate"])
        if not self.variants:
            return self.write_recipe(drop_units(candidate.removed))
        plan = candidate.plan(self.space.num_layers, self.names[1:])
        further = partial(self.further, form="run")
        return self.write_recipe(stitch(plan, self.recipe_indices, sources=further))

    def estimate(self) -> list[str]:
        """Parameters, memory and disk, one line each."""
        shapes = self.source.abstract()
        before = count_params(shapes)
        share = self.config.remove / max(1, len(self.space.units))
        after = round(before - share * sum(count_params(block) for block in shapes.blocks))
        models = 1 + len(self.variants)
        memory = (models + 1) * before * self.source.dtype.itemsize
        return [
            f"parameters: {count(before)} -> about {count(after)}",
            f"memory: about {size(memory)} in all for {models} models, and one that is built, in "
            f"{self.source.dtype}",
            f"disk: about {size(2 * after * self.source.own_dtype.itemsize)} for the model and its "
            "checkpoint",
        ]

    # The study.

    def _space(self, source: SourceModel) -> Space:
        config, shapes = self.config, source.abstract()
        if self.variants:
            layers = shapes.num_layers
            protected = parse_layers(config.protect, layers)
            return StitchSpace(layers, config.remove, tuple(self.names[1:]), protected)
        return DropSpace.of(shapes, config.remove, config.granularity, config.protect)

    def search_keys(self, space: Space) -> dict[str, Any]:
        """What a search over a space depends on, apart from models and data."""
        settings = self.config.settings.to_json()
        return {"space": space.to_json(), "settings": settings, "storage": self.config.storage}

    def _read_windows(self) -> dict[str, Int[np.ndarray, "windows length"]]:
        with (self.root / OBJECTIVES).open("rb") as file, np.load(file) as arrays:
            drawn = [arrays[name] for name in arrays.files]
        return dict(zip(self.config.objectives, drawn, strict=True))

    def _evaluate(
        self, candidate: Candidate, objective: str, items: Int[np.ndarray, " items"]
    ) -> Float[np.ndarray, " items"]:
        ids = self.windows()[objective][items]
        if candidate.mixes:
            return self.models().nll(candidate.plan(self.space.num_layers), ids)
        return self.models().nll(Removal(candidate.gates(self.space.num_layers)), ids)

    def study(
        self,
        space: Space,
        folder: str,
        evaluate: Callable[..., Any],
        starts: Sequence[Candidate],
        base: Mapping[str, Float[np.ndarray, " _"]] | None = None,
    ) -> SearchResult:
        """A search over a space, kept in a folder of the workdir.

        Args:
          space: of the candidates.
          folder: in the workdir; no other search of this run may have it.
          evaluate: gives the NLL of a candidate.
          starts: candidates to begin with.
          base: NLL per window that scores are ratios to, by default that of the empty candidate.
        """
        config = self.config
        windows = self.windows()
        objectives = [Objective(name, len(ids)) for name, ids in windows.items()]
        identity = {
            "jprune": __version__,
            "models": [self.source.keys, *(variant.sha256 for variant in self.variants)],
            "data": {name: list(ids.shape) for name, ids in windows.items()},
        }
        settings = config.settings
        kept = {k: v for k, v in settings.to_json().items() if k != "trials"}
        # The folder tells searches of one run apart that share a storage and remove from models
        # of the same shape.
        name = sha256_json([folder, space.to_json(), kept, identity])[:16]
        root = as_path(self.root / folder)
        root.mkdir(parents=True, exist_ok=True)
        return run_study(
            space,
            objectives,
            evaluate,
            settings,
            config.storage or str(root / JOURNAL),
            name=name,
            warm_starts=starts,
            base=base,
            identity=identity,
        )

    # For the comparisons.

    def drop_space(self, number: int) -> DropSpace:
        """What a search on one of the models alone may remove; 0 is the base."""
        shapes = (self.source, *self.variants)[number].abstract()
        config = self.config
        return DropSpace.of(shapes, config.remove, config.granularity, config.protect)

    def model(self, number: int) -> Llama:
        """One of the models; 0 is the base."""
        return (self.checkpoint, *self.loaded)[number]().llama
