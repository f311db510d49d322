"""Retraining of a pruned model: its data, the training itself, and what is kept of it."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import numpy as np

from jprune.checkpoints import Checkpoint, export_peft
from jprune.core.errors import InputError
from jprune.core.files import PathLike, as_path, sha256_json, write_bytes
from jprune.core.mesh import batch_sharding
from jprune.core.paths import resolved
from jprune.core.progress import log
from jprune.data import TrainingSet, check_vocabulary, find_source
from jprune.llama.model import Llama, count_params
from jprune.llama.zeros import mask_zeros
from jprune.pipeline.lazy import Lazy
from jprune.pipeline.retrain_config import RetrainConfig
from jprune.pipeline.source import SourceModel
from jprune.pipeline.stages import Stage
from jprune.pipeline.trained_files import store_adapters, store_weights
from jprune.pipeline.training_data import evenly, training_set
from jprune.retrain import Trained, distillation, next_token_loss, train, trainable
from jprune.retrain.kinds import LAST, LORA
from jprune.retrain.loop import HISTORY
from jprune.retrain.split import split
from jprune.retrain.step import Objective
from jprune.transforms import Transform

DATA, ADAPTER, BASE = "training-data", "adapter", "pruned"
RECENT = 100  # steps that the reported training loss is the mean of

# From the values of the stages so far, the pruned model; and from them and a step, what the stage
# `retrain` returns of the recipe.
Student = Callable[[Mapping[str, Any]], Llama]
Finish = Callable[[Mapping[str, Any], Transform], dict[str, Any]]


class Retraining:
    """The stages that retrain a pruned model; none where the config asks for none.

    Weights that pruning made zero stay zero.

    Args:
      config: the group `retrain` of the run's config.
      workdir: of the run.
      source: the unpruned model.
      checkpoint: the same, loaded; given up when training begins.
      validation: source of the validation loss where the config names none.
      data_dir: folder with local copies of known data sources.
      seed: of the run.

    Raises:
      InputError: there are several processes.
    """

    def __init__(
        self,
        config: RetrainConfig,
        workdir: PathLike,
        source: SourceModel,
        checkpoint: Lazy[Checkpoint],
        validation: str,
        data_dir: str | None = None,
        seed: int = 0,
    ):
        if config.is_on and jax.process_count() > 1:
            raise InputError("retraining runs in a single process; start one, on one host")
        self.config, self.root = config, as_path(workdir)
        self.source, self.checkpoint = source, checkpoint
        self.validation = config.validation or validation
        self.data_dir, self.seed = data_dir, seed

    @classmethod
    def of(
        cls, config: Any, source: SourceModel, workdir: PathLike, checkpoint: Lazy[Checkpoint]
    ) -> "Retraining":
        """That of a pruning run, from its whole config, which has the group `retrain`."""
        rest = (config.eval[0], config.data_dir, config.seed)
        return cls(config.retrain, workdir, source, checkpoint, *rest)

    @property
    def is_on(self) -> bool:
        """Whether there is anything to do."""
        return self.config.is_on

    @property
    def has_adapter(self) -> bool:
        """Whether adapters are what trains."""
        return self.is_on and self.config.trained == LORA

    def stages(self, student: Student, finish: Finish, outputs: tuple[str, ...]) -> list[Stage]:
        """The stages `training-data` and `retrain`.

        Args:
          student: gives the pruned model.
          finish: writes the recipe; what it returns is in the value of `retrain`.
          outputs: what it writes.
        """
        if not self.is_on:
            return []
        train_source = find_source(self._data, "calibration", self.data_dir)
        held_out = find_source(self.validation, "evaluation", self.data_dir)
        tokens = train_source.is_tokens and held_out.is_tokens
        keys = self.config.data_keys | {
            "data": train_source.fingerprint(),
            "validation": held_out.fingerprint(),
            "window_length": self._length(),
            "tokenizer": None if tokens else self.source.tokenizer_sha256(),
        }

        def run(values: Mapping[str, Any]) -> dict[str, Any]:
            return self.train(values, student(values), finish)

        written = (*outputs, HISTORY, *((ADAPTER,) if self.has_adapter else ()))
        return [
            Stage("training-data", keys, self.make_data, ("model",), (DATA,)),
            Stage("retrain", self._train_keys, run, ("recipe", "training-data"), written),
        ]

    @property
    def _data(self) -> str:
        assert self.config.data is not None  # refused before, where retraining is on
        return self.config.data

    @property
    def _train_keys(self) -> dict[str, Any]:
        return self.source.keys | self.config.train_keys

    def _length(self) -> int:
        most = self.source.abstract().config.max_position_embeddings
        return min(self.config.window_length, most)

    def make_data(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Packs the text, and the text held out for validation, into windows, and keeps them."""
        config, length = self.config, self._length()
        tokenizer, vocabulary = self.source.tokenizer(), self.source.abstract().embed.shape[0]
        train_source = find_source(self._data, "calibration", self.data_dir)
        held_out = find_source(self.validation, "evaluation", self.data_dir)
        packed = partial(training_set, tokenizer=tokenizer, length=length)
        windows = {
            "train": packed(train_source, most=config.num_windows, loss=config.loss),
            "validation": evenly(packed(held_out), config.validation_windows),
        }
        for name, one in windows.items():
            if not len(one):
                source = self._data if name == "train" else self.validation
                raise InputError(
                    f"too little text in {source}: not one window of {length} tokens to {name} on"
                )
            check_vocabulary(one.ids, vocabulary)
            one.save(self.root / DATA / name)
        return {
            name: {"windows": len(one), "tokens": int(one.mask.sum()), "sha256": one.sha256}
            for name, one in windows.items()
        }

    def train(self, values: Mapping[str, Any], llama: Llama, finish: Finish) -> dict[str, Any]:
        """Trains the pruned model, or goes on with its training, and keeps what came out."""
        config = self.config
        identity = sha256_json(
            {
                "train": self._train_keys,
                "data": values["training-data"],
                "model": values["recipe"],
            }
        )
        steps = self.root / "checkpoints" / f"training-{identity[:12]}"
        self.checkpoint.clear()  # its arrays are given up
        trained, size = self._train(llama, steps)
        folder = self.root / "arrays"
        if self.has_adapter:
            self._export_adapter(trained.llama, values)
            step = store_adapters(folder, trained.llama)
        else:
            last = config.last_k if config.trained == LAST else None
            step = store_weights(folder, trained.llama, last, self.source.own_dtype)
        write_bytes(self.root / HISTORY, (steps / HISTORY).read_bytes())
        return finish(values, step) | {"figures": self._figures(trained, size)}

    def _train(self, llama: Llama, folder: Any) -> tuple[Trained, int]:
        """The trained model, and how many parameters trained."""
        config = self.config
        objective: Objective = next_token_loss
        if config.distils:
            objective = distillation(
                self.source.load().llama,  # once more: the student's arrays are given up
                llama.origins,
                temperature=config.temperature,
                alpha=config.alpha,
                hidden_weight=config.hidden_weight,
                dtype=config.train.dtype,
                consume=True,
            )
        sparse = mask_zeros(llama)
        if sparse is not llama:
            log.info("weights that are zero stay zero")
        if config.trained == LORA:
            sparse = config.lora.transform(self.seed)(sparse)
        student, where = trainable(sparse, config.trained, config.last_k, consume=True)
        size = count_params(split(student, where)[0])
        data, validation = (
            TrainingSet.load(self.root / DATA / name) for name in ("train", "validation")
        )
        settings = config.settings(len(data))
        micro = settings.micro_batches
        shape = (micro, settings.batch_size // micro, data.ids.shape[1])
        trained = train(
            student,
            data,
            settings,
            validation=validation,
            where=where,
            objective=objective,
            checkpoint_dir=folder,
            batch_sharding=batch_sharding(shape, axis=1),
            consume=True,
        )
        return trained, size

    def _export_adapter(self, llama: Llama, values: Mapping[str, Any]) -> None:
        """The adapters in PEFT's form, on the pruned model in the folder beside them."""
        export_peft(
            self.root / ADAPTER,
            llama,
            str(resolved(self.root / BASE)),
            record={
                "name": f"{self.source.name}-lora",
                "base": {"name": BASE, "steps": values["recipe"]["steps"]},
                "data": self.config.data,
                "seed": self.seed,
            }
            | self.config.train_keys,
        )

    def _figures(self, trained: Trained, size: int) -> dict[str, Any]:
        """What run.json says of the training."""
        rows = trained.history
        losses = [row["loss"] for row in rows if "loss" in row]
        validation = [row["validation_nll"] for row in rows if "validation_nll" in row]
        return {
            "kind": self.config.kind,
            "parameters": size,
            "steps": len(losses),
            "tokens": int(sum(row.get("tokens", 0) for row in rows)),
            "loss": float(np.mean(losses[-RECENT:])),
            "validation_nll": validation[-1],
        }
