"""Pretraining as a job: tokenizer, windows, training, evaluation, export."""

import dataclasses
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jprune.checkpoints import (
    Tokenizer,
    as_dtype,
    export_huggingface,
    load,
    save,
    target_dtype,
)
from jprune.core.errors import InputError
from jprune.core.files import PathLike, as_path, sha256_json, write_bytes, write_json
from jprune.data import document_windows, documents, find_source, spread
from jprune.evaluate import evaluate_sources
from jprune.llama import Llama, abstract, init
from jprune.llama.model import count_params
from jprune.pipeline.job import Job
from jprune.pipeline.lazy import Lazy
from jprune.pipeline.pretrain_card import pretrain_card
from jprune.pipeline.pretrain_config import PretrainConfig, pretrain_config
from jprune.pipeline.stages import Stage, StageState
from jprune.report.tables import count, size
from jprune.retrain import train
from jprune.retrain.loop import HISTORY
from jprune.retrain.tokenizer import BOS_ID, EOS_ID, save_tokenizer, train_tokenizer

TOKENIZER, WINDOWS, TRAINED, MODEL = "tokenizer", "windows.npz", "checkpoints/trained", "model"
RECENT = 100  # steps that the reported training loss is the mean of


def pretrain_job(values: Mapping[str, Any], workdir: PathLike) -> Job:
    """The job of a pretraining config; its keys are those of `PretrainConfig`.

    Raises:
      InputError: a bad key or data source; nothing has been read yet.
    """
    config = pretrain_config(values)
    run = PretrainRun(config, workdir)
    return Job(
        stages=tuple(run.stages()),
        identity={"data": {"name": config.data, "sha256": sha256_json(run.data)}},
        summary=run.summary,
        estimate=run.estimate,
    )


class PretrainRun:
    """The stages of one run and what they share."""

    def __init__(self, config: PretrainConfig, workdir: PathLike):
        self.config = config
        self.root = as_path(workdir)
        self.data = find_source(config.data, "calibration", config.data_dir).fingerprint()
        self.tokenizer = Lazy(lambda: Tokenizer(self.root / TOKENIZER))

    def stages(self) -> list[Stage]:
        """Every stage with the keys that it depends on."""
        config = self.config
        sources = [find_source(s, "evaluation", config.data_dir) for s in config.eval]
        held_out = [source.fingerprint() for source in sources]
        length = config.architecture.max_position_embeddings
        evaluation = {name: getattr(config, name) for name in ("protocol", "eval_windows", "dtype")}
        return [
            Stage(
                "tokenizer",
                {"data": self.data, "vocab_size": config.vocab_size, "length": length},
                self.make_tokenizer,
                outputs=(TOKENIZER,),
            ),
            Stage(
                "windows",
                {"validation": held_out[0], "validation_windows": config.validation_windows},
                self.make_windows,
                ("tokenizer",),
                (WINDOWS,),
            ),
            Stage("train", self.train_keys, self.train, ("windows",), (TRAINED, HISTORY)),
            Stage(
                "evaluate",
                evaluation | {"eval": list(config.eval), "data": held_out},
                self.evaluate,
                ("train",),
            ),
            Stage(
                "export",
                {"dtype": config.dtype, "name": config.name},
                self.export,
                ("windows", "train", "evaluate"),
                (MODEL,),
            ),
        ]

    @property
    def train_keys(self) -> dict[str, Any]:
        """What the trained weights depend on, apart from the windows."""
        settings = dataclasses.asdict(self.config.train)
        for free in ("checkpoint_every", "keep"):
            settings.pop(free)
        return {"architecture": dataclasses.asdict(self.config.architecture), "train": settings}

    def summary(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What run.json says, from the values of the finished stages."""
        llama = self._abstract()
        parameters = count_params(llama)
        sizes = {
            "layers": llama.num_layers,
            "parameters": parameters,
            "bytes": parameters * as_dtype(self.config.dtype).itemsize,
        }
        figures: dict[str, Any] = {"train": values.get("train")}
        if "evaluate" in values:
            figures["after"] = {"perplexity": values["evaluate"]}
        sizes = {key: {"before": value, "after": value} for key, value in sizes.items()}
        return {
            "figures": figures,
            "removed": [],
            "model": {"name": self.config.name} | sizes,
            "sparsity": {},
        }

    def estimate(self, states: Sequence[StageState]) -> list[str]:
        """Parameters, memory for them and the optimizer, and disk."""
        parameters = count_params(self._abstract())
        state = 3 * 4 * parameters  # float32 weights and two moments
        disk = (self.config.train.keep + 1) * state + 2 * parameters
        return [
            f"parameters: {count(parameters)}",
            f"memory: about {size(state + 4 * parameters)} on {jax.devices()[0].device_kind} for "
            "weights, optimizer and gradients, and the activations of a micro-batch",
            f"disk: about {size(disk)} for checkpoints and the model",
        ]

    # The stages.

    def make_tokenizer(self, values: Mapping[str, Any]) -> None:
        """Fits the tokenizer to the text."""
        tokenizer = train_tokenizer(self._documents(), self.config.vocab_size)
        save_tokenizer(
            self.root / TOKENIZER, tokenizer, self.config.architecture.max_position_embeddings
        )
        # Beside the tokenizer, because what lies there goes with it into the export.
        generation = {"bos_token_id": BOS_ID, "eos_token_id": EOS_ID}
        write_json(self.root / TOKENIZER / "generation_config.json", generation)

    def make_windows(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Cuts the text, and the text held out for validation, into windows."""
        length = self.config.architecture.max_position_embeddings
        held_out = documents(self.config.eval[0], "evaluation", self.config.data_dir)
        windows = {
            "train": document_windows(self._documents(), self.tokenizer(), length),
            "validation": spread(
                document_windows(held_out, self.tokenizer(), length),
                self.config.validation_windows,
            ),
        }
        for name, ids in windows.items():
            if not len(ids):
                raise InputError(f"too little text: not one window of {length} tokens to {name} on")
        buffer = io.BytesIO()
        np.savez(buffer, train=windows["train"], validation=windows["validation"])
        write_bytes(self.root / WINDOWS, buffer.getvalue())
        return {name: {"windows": len(ids), "tokens": ids.size} for name, ids in windows.items()}

    def train(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Trains the model, or goes on with its training."""
        config = self.config
        identity = sha256_json(self.train_keys | {"windows": values["windows"]})
        steps = self.root / "checkpoints" / f"training-{identity[:12]}"
        sizes, layers = self._sizes()
        with (self.root / WINDOWS).open("rb") as file, np.load(file) as windows:
            trained = train(
                init(sizes, layers, jax.random.key(config.seed), source=config.name),
                windows["train"],
                config.train,
                validation=windows["validation"],
                checkpoint_dir=steps,
                consume=True,
            )
        history = trained.history
        save(self.root / TRAINED, trained.llama, self.tokenizer())
        write_bytes(self.root / HISTORY, (steps / HISTORY).read_bytes())
        losses = [row["loss"] for row in history if "loss" in row]
        validation = [row["validation_nll"] for row in history if "validation_nll" in row]
        return {
            "steps": len(losses),
            "tokens": int(sum(row.get("tokens", 0) for row in history)),
            "loss": float(np.mean(losses[-RECENT:])),
            "validation_nll": validation[-1],
        }

    def evaluate(self, values: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Perplexity of the weights as they are exported."""
        config = self.config
        results = evaluate_sources(
            jax.tree.map(lambda x: x.astype(target_dtype(None, x.dtype)), self._rounded()),
            self.tokenizer(),
            config.eval,
            config.protocol,
            data_dir=config.data_dir,
            max_windows=config.eval_windows,
        )
        return [result.to_json(protocol) for protocol, result in results]

    def export(self, values: Mapping[str, Any]) -> None:
        """The model for Hugging Face."""
        card = pretrain_card(self.config, count_params(self._abstract()), values)
        export_huggingface(self.root / MODEL, self._rounded(), self.tokenizer(), card=card)

    # What they are made of.

    def _documents(self) -> Iterable[str]:
        return documents(self.config.data, "calibration", self.config.data_dir)

    def _sizes(self):
        """The model's config and number of layers."""
        architecture = self.config.architecture
        return architecture.llama_config(self.config.vocab_size), architecture.num_hidden_layers

    def _abstract(self) -> Llama:
        return abstract(*self._sizes())

    def _rounded(self) -> Llama:
        """The trained model in the dtype of the export."""
        return load(self.root / TRAINED, as_dtype(self.config.dtype))
