"""How a training run goes, and which settings cannot be."""

import dataclasses
import numbers
import types
import typing
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jprune.core.errors import InputError
from jprune.retrain.optimizer import AdamW, schedule

# Settings that change no figure.
FREE = ("checkpoint_every", "keep", "keep_best", "tensorboard")

# The least that an integer takes, where it is not 1.
LEAST = {"seed": 0, "checkpoint_every": 0, "validate_every": 0, "warmup_steps": 0}


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """How a run goes.

    Attributes:
      steps: optimizer steps.
      batch_size: windows per step.
      micro_batch_size: windows per forward and backward pass, a divisor of `batch_size`; None:
        all at once. It changes memory and speed, and the result only by rounding and by which
        inputs dropout drops.
      seed: of the data order and of dropout.
      optimizer: see `AdamW`.
      compute_dtype: of forward and backward passes, over float32 parameters; None: float32 on
        CPU, bfloat16 elsewhere.
      remat: recompute activations in the backward pass.
      group_by_length: steps are of windows of like length, cut to it; see
        `jprune.retrain.batches.Grouping`.
      checkpoint_every: steps between checkpoints; 0: only after the last step.
      validate_every: steps between validations; 0: only after the last step.
      keep: how many checkpoints are kept, the last ones.
      keep_best: the one with the least validation loss is kept beside them, and saved when it
        comes up.
      tensorboard: the curves are written for TensorBoard too; takes the extra `tensorboard`.
    """

    steps: int
    batch_size: int
    micro_batch_size: int | None = None
    seed: int = 0
    optimizer: AdamW = AdamW()
    compute_dtype: str | None = None
    remat: bool = False
    group_by_length: bool = False
    checkpoint_every: int = 100
    validate_every: int = 0
    keep: int = 2
    keep_best: bool = False
    tensorboard: bool = False

    @property
    def micro_batches(self) -> int:
        """How many micro-batches make a step."""
        return self.batch_size // (self.micro_batch_size or self.batch_size)

    @property
    def dtype(self) -> Any:
        """The dtype of forward and backward passes on this machine."""
        default = "float32" if jax.default_backend() == "cpu" else "bfloat16"
        return jnp.dtype(self.compute_dtype or default)


def check_settings(settings: TrainSettings, label: str = "{}") -> None:
    """Raises InputError if the settings cannot be or do not fit each other.

    Args:
      settings: with those of the optimizer.
      label: what messages call a setting, with {} for its name.
    """
    for part in (settings, settings.optimizer):
        check_fields(type(part), vars(part), label)
    if settings.batch_size % (settings.micro_batch_size or settings.batch_size):
        raise InputError(
            f"{label.format('micro_batch_size')} {settings.micro_batch_size} does not divide "
            f"batch_size {settings.batch_size}"
        )
    schedule(settings.optimizer, settings.steps)


def check_fields(
    kind: type, values: Mapping[str, Any], label: str = "{}", least: Mapping[str, int] = LEAST
) -> None:
    """Checks values for the fields of a dataclass that take an integer, number, string or bool.

    Args:
      kind: the dataclass.
      values: by the names of fields; others are left alone.
      label: what messages call a field, with {} for its name.
      least: of integer fields; 1 where none is given. Other numbers are not negative.

    Raises:
      InputError: a value that its field does not take.
    """
    for field in dataclasses.fields(kind):
        union = isinstance(field.type, types.UnionType)
        allowed = typing.get_args(field.type) if union else (field.type,)
        value = values.get(field.name, dataclasses.MISSING)
        if value is dataclasses.MISSING or (value is None and types.NoneType in allowed):
            continue
        start = least.get(field.name, 1)
        flag = isinstance(value, bool)
        if int in allowed:
            fits = isinstance(value, numbers.Integral) and not flag and int(value) >= start
            wanted = f"an integer from {start} on"
        elif float in allowed:
            fits = isinstance(value, numbers.Real) and not flag and float(value) >= 0  # NaN is not
            wanted = "a number from 0 on"
        elif str in allowed:
            fits, wanted = isinstance(value, str), "a string"
        else:
            fits, wanted = flag or bool not in allowed, "true or false"
        if not fits:
            raise InputError(f"{label.format(field.name)} takes {wanted}, not {value!r}")
