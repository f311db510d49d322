"""What all pruning jobs share: the model, figures before and after, what is saved and reported."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jprune.checkpoints import Checkpoint, export_huggingface, save
from jprune.checkpoints.mask_files import ARRAYS, copy_arrays, find_arrays, keep_only
from jprune.core.errors import InputError
from jprune.core.files import PathLike, as_path, read_json, write_json, write_text
from jprune.core.processes import on_writer
from jprune.data import find_source
from jprune.evaluate import EvaluationSet, evaluate_sets, evaluation_sets, preset
from jprune.llama.model import Llama, count_params
from jprune.llama.stack import unstack
from jprune.pipeline.lazy import Lazy
from jprune.pipeline.pruning_card import PHASES, pruning_card
from jprune.pipeline.pruning_config import PruningConfig
from jprune.pipeline.retraining import BASE, Retraining
from jprune.pipeline.source import SourceModel
from jprune.pipeline.stages import Stage
from jprune.transforms import Recipe, Transform, chain, from_step
from jprune.transforms.stored import keeps_shapes, stored_digests
from jprune.transforms.transform import Sources

CHECKPOINT, RETRAINED = "checkpoints/pruned", "checkpoints/retrained"
RECIPE, PRUNED_RECIPE = "recipe.json", "recipe-pruned.json"


class PruningRun:
    """The stages around a decision, and what they share.

    A job adds stages that decide, the last of which is called `recipe` and gives what
    `write_recipe` returns. A job that retrains sets `retraining`, and saves the retrained model.
    """

    retraining: Retraining | None = None

    def __init__(self, config: PruningConfig, source: SourceModel, workdir: PathLike):
        self.source = source
        self.variants: tuple[SourceModel, ...] = ()
        self.root = as_path(workdir)
        self.checkpoint: Lazy[Checkpoint] = Lazy(source.load)
        self.exact: Lazy[Llama] = Lazy(self._load_exact)
        self.tokenizer = source.tokenizer_sha256()
        self.evaluation: Lazy[list[EvaluationSet]] = Lazy(
            lambda: self.evaluation_sets(config.eval, config.eval_windows)
        )
        self._config = config

    def model_stage(self) -> Stage:
        """Loads the model, which checks it, and gives its size."""
        return Stage("model", self.source.keys, self.describe_model)

    def evaluation_stage(self, when: str, need: str, llama: Callable[[Any], Llama]) -> Stage:
        """Perplexity of the model that `llama` gives, as `evaluate-WHEN`."""
        windows = {"eval_windows": self._config.eval_windows}

        def run(values: Mapping[str, Any]) -> list[dict[str, Any]]:
            return self.perplexities(llama(values))

        return Stage(f"evaluate-{when}", self.evaluation_keys | windows, run, (need,))

    def perplexities(self, llama: Llama) -> list[dict[str, Any]]:
        """The perplexities of a model on the evaluation data."""
        results = evaluate_sets(llama, self.evaluation())
        return [result.to_json(protocol) for protocol, result in results]

    def evaluation_stages(self) -> list[Stage]:
        """Perplexity of the whole model and of the pruned one."""
        return [
            self.evaluation_stage("before", "model", lambda values: self.checkpoint().llama),
            self.evaluation_stage("after", "recipe", self.pruned),
        ]

    @property
    def checkpoint_folder(self) -> str:
        """Where the model is saved in its true structure, below the workdir."""
        return RETRAINED if self.retrains else CHECKPOINT

    @property
    def retrains(self) -> bool:
        """Whether the pruned model is retrained."""
        return self.retraining is not None and self.retraining.is_on

    @property
    def final(self) -> str:
        """The stage that gives the steps to the model that is saved."""
        return "retrain" if self.retrains else "recipe"

    def retraining_stages(self) -> list[Stage]:
        """Trains the pruned model, and its perplexity; none where the config asks for none."""
        if self.retraining is None or not self.retraining.is_on:
            return []
        return [
            *self.retraining.stages(self.pruned, self.write_retrained, (RECIPE, ARRAYS)),
            self.evaluation_stage("retrained", "retrain", partial(self.pruned, stage="retrain")),
        ]

    def saving_stages(self) -> list[Stage]:
        """The model for Hugging Face, and in its true structure; for an adapter also its base."""
        copied = {"companions": self.source.companions_sha256()}
        saved = self.checkpoint_folder
        stages = [
            Stage("export", copied, self._export, (self.final,), ("model",)),
            Stage("checkpoint", copied, self._save_checkpoint, (self.final,), (saved,)),
        ]
        if self.retraining is not None and self.retraining.has_adapter:
            stages.append(Stage("export-base", copied, self._export_base, ("recipe",), (BASE,)))
        return stages

    def report_stage(self, stages: list[Stage]) -> Stage:
        """The page, its plots, and the figures on the model's card, from all other stages."""
        needs = tuple(stage.name for stage in stages)
        return Stage("report", {}, self._report, needs, ("report.html", "plots", "model/README.md"))

    def write_recipe(self, transform: Transform) -> dict[str, Any]:
        """Writes down what is done to the model; gives its steps and the sizes of the result."""
        on_writer(self._copy_arrays)
        steps = self._write(self.recipe_file, transform)
        return {"steps": steps, "after": self._sizes(self._result_shapes(steps))}

    def write_retrained(self, values: Mapping[str, Any], trained: Transform) -> dict[str, Any]:
        """Writes down what was done to the model before, and what training made of it."""
        pruned = self._chain(values["recipe"]["steps"], partial(self.further, form="run"))
        return {"steps": self._write(RECIPE, chain(pruned, trained))}

    def _write(self, file: str, transform: Transform) -> list[Mapping[str, Any]]:
        """Writes a recipe; files of other recipes than this one's do not stay."""
        recipe = self.first_recipe().with_sources(*self.variants)[0].then(transform)
        write_json(self.root / file, recipe.to_json())
        if self.retraining is not None:
            on_writer(lambda: keep_only(self.root / ARRAYS, stored_digests(recipe.steps)))
        return list(transform.steps)

    def first_recipe(self) -> Recipe:
        """How the model that the run starts from was made, or itself as the source."""
        source = self.source
        return Recipe.of_model(source.recipe(), source.name, source.path, source.sha256)

    @property
    def inherited(self) -> list[str]:
        """SHA-256 of the files that the steps name which made the model that the run starts from.

        They are kept beside the run's own recipe, which begins with these steps.
        """
        return stored_digests(self.first_recipe().steps)

    @property
    def recipe_file(self) -> str:
        """Where the recipe of the pruned model is: retrained, it has another."""
        return PRUNED_RECIPE if self.retrains else RECIPE

    @property
    def recipe_keys(self) -> dict[str, Any]:
        """What the stage `recipe` depends on beside what was decided."""
        return {"file": self.recipe_file} if self.retrains else {}

    @property
    def recipe_outputs(self) -> tuple[str, ...]:
        """What `write_recipe` writes."""
        return (self.recipe_file, ARRAYS) if self.inherited else (self.recipe_file,)

    def _copy_arrays(self) -> None:
        """Copies what `inherited` names from where the model is."""
        if self.inherited:
            found = find_arrays(self.source.folder, self.inherited)
            copy_arrays(found, self.root / ARRAYS, self.inherited)

    def further(self, index: int, form: str) -> Llama:
        """A further source of the recipe, which a step names by its index.

        Args:
          index: from 1 on.
          form: "run", in the dtype of the run, or "exact", as its files.

        Raises:
          InputError: the run has no further sources.
        """
        raise InputError(f"the recipe names source {index}, but the run has one model")

    def pruned(self, values: Mapping[str, Any], stage: str = "recipe") -> Llama:
        """The model as it is run that the stage `recipe`, or `retrain`, decided on."""
        return self._transform(values, "run", stage)(self.checkpoint().llama)

    def summary(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What run.json says in every pruning job, from the values of the finished stages."""
        figures: dict[str, Any] = {}
        for when in PHASES:
            if f"evaluate-{when}" in values:
                figures[when] = {"perplexity": values[f"evaluate-{when}"]}
        if "retrain" in values:
            figures["retrain"] = values["retrain"]["figures"]
        before = values.get("model") or {}
        after = (values.get("recipe") or {}).get("after") or {}
        sizes = {
            key: {"before": before.get(key), "after": after.get(key)}
            for key in ("layers", "parameters", "bytes")
        }
        model = {"name": self.source.name, "path": self.source.path, "sha256": self.source.sha256}
        return {"figures": figures, "removed": [], "model": model | sizes, "sparsity": {}}

    @property
    def evaluation_keys(self) -> dict[str, Any]:
        """What the evaluation windows depend on, apart from their number."""
        return self.data_keys(self._config.eval) | {"protocol": self._config.protocol}

    def data_keys(self, sources: tuple[str, ...]) -> dict[str, Any]:
        """What windows of some data depend on; token ids need no tokenizer."""
        found = [find_source(s, "evaluation", self._config.data_dir) for s in sources]
        return {
            "eval": list(sources),
            "data": [source.fingerprint() for source in found],
            "tokenizer": None if all(s.is_tokens for s in found) else self.tokenizer,
        }

    def evaluation_sets(self, sources: tuple[str, ...], most: int | None) -> list[EvaluationSet]:
        """At most so many windows of each source, under the protocol of the run."""
        checkpoint, config = self.checkpoint(), self._config
        protocol = preset(config.protocol, checkpoint.llama.config)
        return evaluation_sets(
            sources, checkpoint.tokenizer, protocol, data_dir=config.data_dir, max_windows=most
        )

    def describe_model(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The size of the model and the dtype that it is run in."""
        return self._sizes(self.checkpoint().llama) | {"dtype": str(self.source.dtype)}

    def _export(self, values: Mapping[str, Any]) -> None:
        """In the dtype that the model came in."""
        self._export_as("model", RECIPE, self._transform(values, "exact", self.final))

    def _export_base(self, values: Mapping[str, Any]) -> None:
        """The pruned model, which the adapter is for."""
        self._export_as(BASE, PRUNED_RECIPE, self._transform(values, "exact", "recipe"))

    def _export_as(self, folder: str, file: str, transform: Transform) -> None:
        source, recipe = self.source, read_json(self.root / file)
        llama, folder = transform(self.exact()), self.root / folder
        export_huggingface(folder, llama, source.tokenizer(), recipe, dtype=source.own_dtype)

    def _save_checkpoint(self, values: Mapping[str, Any]) -> None:
        own = self.source.own_dtype
        llama = jax.tree.map(
            lambda x: x.astype(own) if jnp.issubdtype(x.dtype, jnp.floating) else x,
            self._transform(values, "exact", self.final)(self.exact()),
        )
        recipe = read_json(self.root / RECIPE)
        save(self.root / self.checkpoint_folder, llama, self.source.tokenizer(), recipe)

    def _report(self, values: Mapping[str, Any]) -> None:
        from jprune.report import write_report

        pruned = self._result_shapes(values["recipe"]["steps"])
        recipe = read_json(self.root / RECIPE)
        sparsity = self.summary(values)["sparsity"]
        card = pruning_card(self.root / "model", pruned, recipe, values, sparsity)
        write_text(self.root / "model" / "README.md", card)
        (self.root / "plots").mkdir(parents=True, exist_ok=True)
        write_report(self.root)

    def _transform(self, values: Mapping[str, Any], form: str, stage: str) -> Transform:
        """What the stage `recipe` or `retrain` decided; `form` is that of further sources."""
        return self._chain(values[stage]["steps"], partial(self.further, form=form))

    def _chain(self, steps: Sequence[Mapping[str, Any]], sources: Sources) -> Transform:
        return chain(*(from_step(step, self.root / ARRAYS, sources) for step in steps))

    def _result_shapes(self, steps: Sequence[Mapping[str, Any]]) -> Llama:
        """The shapes of what the steps make; no model is loaded for it."""
        _, indices = self.first_recipe().with_sources(*self.variants)

        changing = [step for step in steps if not keeps_shapes(step)]

        def apply(llama: Llama, variants: Sequence[Llama]) -> Llama:
            return self._chain(changing, dict(zip(indices, variants, strict=True)))(llama)

        shapes = [model.abstract() for model in (self.source, *self.variants)]
        return jax.eval_shape(apply, shapes[0], shapes[1:])

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
