"""Finetuning with LoRA as a job: windows, training, an adapter, its evaluation.

Reference: Hu et al., LoRA (arXiv 2106.09685).
"""

import dataclasses
import functools
import io
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jprune.checkpoints import (
    checkpoint_sha256,
    export_huggingface,
    export_peft,
    load_checkpoint,
    model_card,
)
from jprune.checkpoints.load import form_of
from jprune.core.errors import InputError
from jprune.core.files import PathLike, as_path, sha256_json, write_bytes, write_text
from jprune.core.mesh import batch_sharding
from jprune.core.paths import resolved
from jprune.core.trees import matches
from jprune.data import check_vocabulary, find_source, spread, training_windows
from jprune.evaluate import EvaluationSet, evaluate_sets, evaluation_sets, preset
from jprune.llama.model import Llama, count_params
from jprune.llama.names import named_params
from jprune.llama.zeros import mask_zeros
from jprune.pipeline.finetune_card import finetune_card
from jprune.pipeline.finetune_config import FinetuneConfig, finetune_config
from jprune.pipeline.finetune_estimate import lines
from jprune.pipeline.job import Job
from jprune.pipeline.lazy import Lazy
from jprune.pipeline.source import SourceModel, find_model, known_identity
from jprune.pipeline.stages import Stage
from jprune.retrain import ADAPTERS, train
from jprune.retrain.loop import HISTORY
from jprune.transforms import Recipe
from jprune.transforms.recipe import source_path

WINDOWS, ADAPTER, MODEL = "windows.npz", "adapter", "model"
RECENT = 100  # steps that the reported training loss is the mean of


def finetune_job(values: Mapping[str, Any], workdir: PathLike) -> Job:
    """The job of a finetuning config; its keys are those of `FinetuneConfig`.

    Raises:
      InputError: a bad key, model or data source; nothing has been loaded yet.
    """
    config = finetune_config(values)
    if jax.process_count() > 1:
        raise InputError("finetuning runs in a single process; start one, on one host")
    source = find_model(config.model, config.dtype, known_identity(workdir))
    run = FinetuneRun(config, source, workdir)
    return Job(
        stages=tuple(run.stages()),
        identity={"model": source.identity},
        summary=run.summary,
        estimate=lambda states: lines(config, source, run.size),
    )


class FinetuneRun:
    """The stages of one run and what they share.

    Args:
      config: what is asked for.
      source: the base.
      workdir: where everything goes.

    Raises:
      InputError: the base is an adapter itself, holds adapters, or has none of the projections.
    """

    def __init__(self, config: FinetuneConfig, source: SourceModel, workdir: PathLike):
        if form_of(source.folder) == "peft":
            raise InputError(
                f"{source.path} is an adapter itself; export it first (jprune export "
                f"--model={source.path} --out=BASE) and give --config.model=BASE"
            )
        self.config, self.source, self.root = config, source, as_path(workdir)
        self.name = config.name or f"{source.name}-lora"
        self.adapt = config.lora.transform(config.seed)
        self.shapes = source.abstract()
        adapted = named_params(jax.eval_shape(self.adapt, self.shapes))
        # How many numbers train.
        self.size = count_params([x for name, x in adapted.items() if matches(ADAPTERS, name)])
        self.length = min(config.window_length, self.shapes.config.max_position_embeddings)
        self.data = find_source(config.data, "calibration", config.data_dir)
        self.held_out = [find_source(s, "evaluation", config.data_dir) for s in config.eval]
        self.tokenizer = source.tokenizer()
        self.evaluation: Lazy[list[EvaluationSet]] = Lazy(self._evaluation_sets)

    def stages(self) -> list[Stage]:
        """Every stage with the keys that it depends on."""
        config = self.config
        vocabulary = {"tokenizer": self.source.tokenizer_sha256()}
        windows = {
            "data": self.data.fingerprint(),
            "validation": self.held_out[0].fingerprint(),
            "window_length": self.length,
            "num_windows": config.num_windows,
            "validation_windows": config.validation_windows,
        }
        evaluation = {
            "eval": list(config.eval),
            "data": [source.fingerprint() for source in self.held_out],
            "protocol": config.protocol,
            "eval_windows": config.eval_windows,
        } | vocabulary
        saved = {
            "adapter_dtype": config.adapter_dtype,
            "base": source_path(self.source.path),
            "name": self.name,
        }
        figures = ("windows", "train", "evaluate-before", "evaluate-after")
        stages = [
            Stage("windows", windows | vocabulary, self.make_windows, outputs=(WINDOWS,)),
            Stage("evaluate-before", evaluation | self.source.keys, self.evaluate_before),
            Stage("train", self.train_keys | saved, self.train, ("windows",), (ADAPTER, HISTORY)),
            Stage(
                "evaluate-after",
                evaluation | {"dtype": str(self.source.dtype)},
                self.evaluate_after,
                ("train",),
            ),
            Stage("card", {}, self.write_card, figures, (f"{ADAPTER}/README.md",)),
        ]
        if config.export_folded:
            copied = {"companions": self.source.companions_sha256()}
            stages.append(Stage("export", copied, self.export, figures, (MODEL,)))
        return [*stages, Stage("report", {}, self.report, figures, ("report.html",))]

    @property
    def train_keys(self) -> dict[str, Any]:
        """What the trained numbers depend on, apart from the windows."""
        settings = dataclasses.asdict(self.config.train)
        for free in ("checkpoint_every", "keep"):
            settings.pop(free)
        settings["compute_dtype"] = self.config.train.dtype.name
        return self.source.keys | {"lora": dataclasses.asdict(self.config.lora), "train": settings}

    def summary(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What run.json says, from the values of the finished stages."""
        figures: dict[str, Any] = {"train": values.get("train")}
        for when in ("before", "after"):
            if f"evaluate-{when}" in values:
                figures[when] = {"perplexity": values[f"evaluate-{when}"]}
        parameters = count_params(self.shapes)
        sizes = {
            "layers": self.shapes.num_layers,
            "parameters": parameters,
            "bytes": parameters * self.source.own_dtype.itemsize,
        }
        model = {"name": self.source.name, "path": self.source.path, "sha256": self.source.sha256}
        return {
            "figures": figures,
            "removed": [],
            "model": model | {key: {"before": n, "after": n} for key, n in sizes.items()},
            "adapter": {"name": self.name, "parameters": self.size},
            "sparsity": {},
        }

    # The stages.

    def make_windows(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Packs the text, and the text held out for validation, into windows."""
        config = self.config
        packed = functools.partial(training_windows, tokenizer=self.tokenizer, length=self.length)
        windows = {
            "train": packed(self.data, most=config.num_windows),
            "validation": spread(packed(self.held_out[0]), config.validation_windows),
        }
        for name, ids in windows.items():
            if not len(ids):
                raise InputError(
                    f"too little text: not one window of {self.length} tokens to {name} on"
                )
            check_vocabulary(ids, self.shapes.embed.shape[0])
        buffer = io.BytesIO()
        np.savez(buffer, train=windows["train"], validation=windows["validation"])
        write_bytes(self.root / WINDOWS, buffer.getvalue())
        return {name: {"windows": len(ids), "tokens": ids.size} for name, ids in windows.items()}

    def evaluate_before(self, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Perplexity of the base."""
        return self._evaluate(self.source.load().llama)

    def train(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Trains the adapters, or goes on with their training, and saves them."""
        config, source = self.config, self.source
        identity = sha256_json(self.train_keys | {"windows": values["windows"]})
        steps = self.root / "checkpoints" / f"training-{identity[:12]}"
        with (self.root / WINDOWS).open("rb") as file, np.load(file) as windows:
            micro = config.train.micro_batches
            shape = (micro, config.train.batch_size // micro, windows["train"].shape[1])
            trained = train(
                self.adapt(mask_zeros(source.load().llama)),
                windows["train"],
                config.train,
                validation=windows["validation"],
                where=ADAPTERS,
                checkpoint_dir=steps,
                batch_sharding=batch_sharding(shape, axis=1),
                consume=True,
            )
        export_peft(
            self.root / ADAPTER,
            trained.llama,
            source_path(source.path),
            dtype=config.adapter_dtype,
            record={
                "name": self.name,
                "base": {"name": source.name, "sha256": source.sha256},
                "data": config.data,
                "seed": config.seed,
            }
            | {key: self.train_keys[key] for key in ("lora", "train")},
        )
        write_bytes(self.root / HISTORY, (steps / HISTORY).read_bytes())
        losses = [row["loss"] for row in trained.history if "loss" in row]
        validation = [row["validation_nll"] for row in trained.history if "validation_nll" in row]
        return {
            "steps": len(losses),
            "tokens": int(sum(row.get("tokens", 0) for row in trained.history)),
            "loss": float(np.mean(losses[-RECENT:])),
            "validation_nll": validation[-1],
        }

    def evaluate_after(self, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Perplexity of the base with the adapter as it is saved, folded."""
        return self._evaluate(load_checkpoint(self.root / ADAPTER, self.source.dtype).llama)

    def write_card(self, values: Mapping[str, Any]) -> None:
        """The adapter's card, with its figures."""
        base = source_path(self.source.path)
        card = finetune_card(self.name, base, self.config, self.size, values)
        write_text(self.root / ADAPTER / "README.md", card)

    def export(self, values: Mapping[str, Any]) -> None:
        """The base with the adapter added to its weights, for Hugging Face, in the base's dtype."""
        adapter = self.root / ADAPTER
        recipe = Recipe(
            (
                {
                    "name": self.name,
                    "path": str(resolved(adapter)),
                    "sha256": checkpoint_sha256(adapter),
                },
            )
        ).to_json()
        llama = load_checkpoint(adapter, "checkpoint").llama
        figures = [
            {"label": when, "perplexity": values[f"evaluate-{when}"]}
            for when in ("before", "after")
        ]
        card = model_card(f"{self.name}-folded", llama, recipe=recipe, figures=figures)
        export_huggingface(
            self.root / MODEL, llama, self.tokenizer, recipe, card, dtype=self.source.own_dtype
        )

    def report(self, values: Mapping[str, Any]) -> None:
        """The page."""
        from jprune.report import write_report

        write_report(self.root)

    # What they are made of.

    def _evaluation_sets(self) -> list[EvaluationSet]:
        config = self.config
        return evaluation_sets(
            config.eval,
            self.tokenizer,
            preset(config.protocol, self.shapes.config),
            data_dir=config.data_dir,
            max_windows=config.eval_windows,
        )

    def _evaluate(self, llama: Llama) -> list[dict[str, Any]]:
        results = evaluate_sets(llama, self.evaluation())
        return [result.to_json(protocol) for protocol, result in results]
