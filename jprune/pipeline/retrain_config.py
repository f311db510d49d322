"""What a pruned model is retrained by, checked before anything is loaded."""

import dataclasses
import math
from typing import Any

from jprune.core.errors import InputError, unknown
from jprune.data.packing import LOSSES
from jprune.pipeline.groups import LoraConfig, filled, lora_settings, train_settings
from jprune.retrain import KINDS, AdamW, Kind, TrainSettings
from jprune.retrain.kinds import FULL, LAST, LORA
from jprune.retrain.settings import FREE, LEAST, check_settings

NONE = "none"
# The least that an integer takes, where it is not 1.
_LEAST = {"window_length": 2} | LEAST
# As in Shortened LLaMA (arXiv 2402.02834), where the config leaves it open.
_TRAIN = TrainSettings(
    1200, 64, 16, optimizer=AdamW(learning_rate=1e-4, warmup_steps=100, weight_decay=0.0, b2=0.999)
)


@dataclasses.dataclass(frozen=True)
class RetrainConfig:
    """The keys of the group `retrain` of a pruning config.

    Attributes:
      kind: none; lora: adapters, folded into the weights in the end; full: all weights (continued
        pretraining); last_k: the last blocks, the final norm and the head; distill: from the
        unpruned model.
      data: source of the text; of a known name the part that is not for evaluation.
      validation: source of the validation loss along the way; None for the first of `eval`.
      window_length: tokens of a training window, at most the model's maximum.
      num_windows: at most so many training windows, the first; None for all of the data.
      validation_windows: at most so many, evenly spread over the held-out text.
      loss: what counts of instructions: all tokens, or the answer's alone.
      lora: see `LoraConfig`.
      train: see `TrainSettings`; the keys of `AdamW` are among them.
      epochs: how often training goes through the windows, in place of `train.steps`.
      last_k: how many blocks train with that kind.
      parameters: which train with distill: lora or full.
      temperature: of both models' distributions with distill.
      alpha: weight of the teacher's distribution with distill; the rest is the text's.
      hidden_weight: of the squared difference of hidden states after blocks of one origin.
    """

    kind: str = NONE
    data: str | None = None
    validation: str | None = None
    window_length: int = 256
    num_windows: int | None = None
    validation_windows: int = 96
    loss: str = "all"
    lora: LoraConfig = LoraConfig()
    train: TrainSettings = _TRAIN
    epochs: float | None = None
    last_k: int = 2
    parameters: str = LORA
    temperature: float = 2.0
    alpha: float = 0.5
    hidden_weight: float = 0.0

    @property
    def is_on(self) -> bool:
        """Whether the model is retrained at all."""
        return self.kind != NONE

    @property
    def distils(self) -> bool:
        """Whether the unpruned model is the teacher."""
        return self._kind.distils

    @property
    def trained(self) -> str:
        """Which parameters train: lora, full or last_k."""
        return self._kind.parameters or self.parameters

    @property
    def _kind(self) -> Kind:
        return KINDS[self.kind]

    @property
    def data_keys(self) -> dict[str, Any]:
        """What the windows depend on, apart from the data and the tokenizer."""
        names = ("num_windows", "validation_windows", "loss")
        return {name: getattr(self, name) for name in names}

    def settings(self, num_windows: int) -> TrainSettings:
        """How training goes through so many windows.

        Raises:
          InputError: the warm-up does not fit.
        """
        if self.epochs is None:
            return self.train
        steps = math.ceil(self.epochs * num_windows / self.train.batch_size)
        settings = dataclasses.replace(self.train, steps=steps)
        check_settings(settings, "config key 'retrain.train.{}'")
        return settings

    @property
    def train_keys(self) -> dict[str, Any]:
        """What the trained numbers depend on, apart from model and windows."""
        settings = dataclasses.asdict(self.train)
        for free in FREE:
            settings.pop(free)
        settings["compute_dtype"] = self.train.dtype.name
        keys: dict[str, Any] = {"kind": self.kind, "train": settings}
        if self.epochs is not None:
            settings.pop("steps")
            keys["epochs"] = self.epochs
        if self.trained == LORA:
            keys["lora"] = dataclasses.asdict(self.lora)
        if self.trained == LAST:
            keys["last_k"] = self.last_k
        if self.distils:
            names = ("parameters", "temperature", "alpha", "hidden_weight")
            keys |= {name: getattr(self, name) for name in names}
        return keys


def retrain_config(values: Any, seed: Any = 0) -> RetrainConfig:
    """The config of the keys of the group `retrain`.

    Args:
      values: by key; None for none.
      seed: of the run.

    Raises:
      InputError: an unknown key, kind or name, with the nearest one; a number that cannot be; no
        data to train on.
    """
    fields: dict[str, Any] = dict(values or {})
    fields["lora"] = lora_settings(fields.get("lora"), "retrain.lora.")
    train: dict[str, Any] = dict(fields.get("train") or {})
    defaults = dataclasses.asdict(_TRAIN)
    defaults |= defaults.pop("optimizer")
    defaults.pop("seed")
    if not set(train) <= set(defaults):
        defaults = {}  # the error is about what was given
    fields["train"] = train_settings(defaults | train, seed, "retrain.train.")
    config = filled(RetrainConfig, fields, "retrain.", _LEAST)
    if config.kind != NONE and config.kind not in KINDS:
        raise unknown("retrain.kind", config.kind, (NONE, *KINDS))
    if config.loss not in LOSSES:
        raise unknown("retrain.loss", config.loss, LOSSES)
    if config.parameters not in (LORA, FULL):
        raise unknown("retrain.parameters", config.parameters, (LORA, FULL))
    if config.epochs is None:
        check_settings(config.train, "config key 'retrain.train.{}'")
    elif config.epochs <= 0:
        raise InputError(f"config key 'retrain.epochs' takes a number above 0, not {config.epochs}")
    if not config.temperature > 0:
        raise InputError(
            f"config key 'retrain.temperature' takes a number above 0, not {config.temperature}"
        )
    if config.alpha > 1:
        raise InputError(f"config key 'retrain.alpha' takes 0 to 1, not {config.alpha}")
    if config.is_on and not config.data:
        raise InputError(
            f"retraining by {config.kind} reads data: give --config.retrain.data=SOURCE"
        )
    return config
