"""Depth pruning as a job: score, remove, evaluate, export, report.

Reference: Kim et al., Shortened LLaMA (arXiv 2402.02834).
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jprune.checkpoints import Checkpoint, export_huggingface, model_card, save
from jprune.checkpoints.hf_export import layers_of, zeroed_sublayers
from jprune.core.files import PathLike, as_path, read_json, write_json, write_text
from jprune.data import check_vocabulary, find_source
from jprune.evaluate import EvaluationSet, evaluate_sets, evaluation_sets, preset
from jprune.llama.model import Llama, count_params
from jprune.llama.stack import unstack
from jprune.pipeline import curve, estimate
from jprune.pipeline.depth_config import DepthConfig, check_removal, depth_config
from jprune.pipeline.depth_scores import DepthScores
from jprune.pipeline.job import Job
from jprune.pipeline.lazy import Lazy
from jprune.pipeline.source import SourceModel, find_model, known_identity
from jprune.pipeline.stages import Stage
from jprune.scores import select
from jprune.transforms import Recipe, Transform, chain, drop_units, from_step

CHECKPOINT = "checkpoints/pruned"


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
        estimate=lambda states: estimate.lines(config, source, states),
    )


class DepthRun:
    """The stages of one run and what they share: the model is loaded when a stage asks for it."""

    def __init__(self, config: DepthConfig, source: SourceModel, workdir: PathLike):
        self.config = config
        self.source = source
        self.root = as_path(workdir)
        self.checkpoint: Lazy[Checkpoint] = Lazy(source.load)
        self.exact: Lazy[Llama] = Lazy(self._load_exact)
        self.tokenizer = source.tokenizer_sha256()
        self.scores = DepthScores(config, workdir, self.checkpoint, self.tokenizer)
        self.evaluation: Lazy[list[EvaluationSet]] = Lazy(
            lambda: self._evaluation_sets(config.eval, config.eval_windows)
        )

    def stages(self) -> list[Stage]:
        """Every stage with the keys that it depends on."""
        config = self.config
        evaluation = self._data_keys(config.eval) | {"protocol": config.protocol}
        windows = {"eval_windows": config.eval_windows}
        stages = [
            Stage("model", self.source.keys, self.describe_model),
            *self.scores.stages(),
            Stage(
                "recipe",
                {"remove": config.remove},
                self.make_recipe,
                ("model", self.scores.stage_name(config.criterion)),
                ("recipe.json",),
            ),
            Stage("evaluate-before", evaluation | windows, self.evaluate_before, ("model",)),
            Stage("evaluate-after", evaluation | windows, self.evaluate_after, ("recipe",)),
        ]
        if config.curve_windows and config.curve_reach:
            first = self._data_keys(config.eval[:1])
            names = ("curve_windows", "curve_reach", "curve_seeds")
            keys = evaluation | first | {name: getattr(config, name) for name in names}
            needs = ("model", *map(self.scores.stage_name, config.criteria))
            stages.append(Stage("curve", keys | self.scores.unit_keys, self.draw_curve, needs))
        copied = {"companions": self.source.companions_sha256()}
        stages += [
            Stage("export", copied, self.export, ("recipe",), ("model",)),
            Stage("checkpoint", copied, self.save_checkpoint, ("recipe",), (CHECKPOINT,)),
        ]
        needs = tuple(stage.name for stage in stages)
        outputs = ("report.html", "plots", "model/README.md")
        return [*stages, Stage("report", {}, self.report, needs, outputs)]

    def summary(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What run.json says, from the values of the finished stages."""
        figures: dict[str, Any] = {}
        for when in ("before", "after"):
            if f"evaluate-{when}" in values:
                figures[when] = {"perplexity": values[f"evaluate-{when}"]}
        if "curve" in values:
            figures["curve"] = values["curve"]
        before = values.get("model") or {}
        after = (values.get("recipe") or {}).get("after") or {}
        sizes = {
            key: {"before": before.get(key), "after": after.get(key)}
            for key in ("layers", "parameters", "bytes")
        }
        model = {"name": self.source.name, "path": self.source.path, "sha256": self.source.sha256}
        return {
            "figures": figures,
            "removed": (values.get("recipe") or {}).get("removed", []),
            "model": model | sizes,
            "sparsity": {},
        }

    # The stages.

    def describe_model(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Loads the model, which checks it, and gives its size."""
        return self._sizes(self.checkpoint().llama) | {"dtype": str(self.source.dtype)}

    def make_recipe(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Chooses what goes, and writes it down."""
        scores = self.scores.read(self.config.criterion)
        chosen = select(scores, self.config.remove)
        transform = drop_units(chosen)
        source = self.source
        recipe = Recipe.of_model(self.checkpoint().recipe, source.name, source.path, source.sha256)
        write_json(self.root / "recipe.json", recipe.then(transform).to_json())
        after = jax.eval_shape(transform, self.checkpoint().llama)
        return {
            "removed": [unit.to_json() for unit in chosen],
            "steps": list(transform.steps),
            "after": self._sizes(after),
        }

    def evaluate_before(self, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Perplexity of the whole model."""
        return self._perplexities(self.checkpoint().llama)

    def evaluate_after(self, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Perplexity of the pruned model."""
        return self._perplexities(self._transform(values)(self.checkpoint().llama))

    def draw_curve(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Perplexity against the number of units removed."""
        config, llama = self.config, self.checkpoint().llama
        (first,) = self._evaluation_sets(config.eval[:1], config.curve_windows)
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

    def export(self, values: Mapping[str, Any]) -> None:
        """The pruned model for Hugging Face, in the dtype that it came in."""
        export_huggingface(
            self.root / "model",
            self._transform(values)(self.exact()),
            self.source.tokenizer(),
            read_json(self.root / "recipe.json"),
            dtype=self.source.own_dtype,
        )

    def save_checkpoint(self, values: Mapping[str, Any]) -> None:
        """The pruned model in its true structure."""
        own = self.source.own_dtype
        pruned = self._transform(values)(self.exact())
        llama = jax.tree.map(
            lambda x: x.astype(own) if jnp.issubdtype(x.dtype, jnp.floating) else x, pruned
        )
        recipe = read_json(self.root / "recipe.json")
        save(self.root / CHECKPOINT, llama, self.source.tokenizer(), recipe)

    def report(self, values: Mapping[str, Any]) -> None:
        """The page, its plots, and the figures on the model's card."""
        from jprune.report import write_report

        pruned = jax.eval_shape(self._transform(values), self.source.abstract())
        card = model_card(
            str(self.root / "model"),
            pruned,
            recipe=read_json(self.root / "recipe.json"),
            figures=[
                {"label": when, "perplexity": values[f"evaluate-{when}"]}
                for when in ("before", "after")
            ],
            notes=zeroed_sublayers([b for b in layers_of(pruned) if b.attn or b.mlp]),
        )
        write_text(self.root / "model" / "README.md", card)
        (self.root / "plots").mkdir(parents=True, exist_ok=True)
        write_report(self.root)

    # What they are made of.

    def _data_keys(self, sources: tuple[str, ...]) -> dict[str, Any]:
        """What evaluation windows depend on; token ids need no tokenizer."""
        found = [find_source(s, "evaluation", self.config.data_dir) for s in sources]
        return {
            "eval": list(sources),
            "data": [source.fingerprint() for source in found],
            "tokenizer": None if all(s.is_tokens for s in found) else self.tokenizer,
        }

    def _evaluation_sets(self, sources: tuple[str, ...], most: int | None) -> list[EvaluationSet]:
        checkpoint, config = self.checkpoint(), self.config
        protocol = preset(config.protocol, checkpoint.llama.config)
        return evaluation_sets(
            sources, checkpoint.tokenizer, protocol, data_dir=config.data_dir, max_windows=most
        )

    def _perplexities(self, llama: Llama) -> list[dict[str, Any]]:
        results = evaluate_sets(llama, self.evaluation())
        return [result.to_json(protocol) for protocol, result in results]

    def _transform(self, values: Mapping[str, Any]) -> Transform:
        return chain(*(from_step(step) for step in values["recipe"]["steps"]))

    def _load_exact(self) -> Llama:
        """The model as exact as its files, in single blocks: dropping some then copies nothing.

        The model that was loaded to be run is given up for it: never are both held.
        """
        loaded = (
            self.checkpoint().llama if self.checkpoint.is_made and self.source.is_exact else None
        )
        self.checkpoint.clear()
        return self.source.load_exact() if loaded is None else unstack(loaded, consume=True)

    def _sizes(self, llama: Llama) -> dict[str, int]:
        """Layers, parameters, and bytes as stored."""
        parameters = count_params(llama)
        size = parameters * self.source.own_dtype.itemsize
        return {"layers": llama.num_layers, "parameters": parameters, "bytes": size}
