"""Config keys as the dataclasses that they fill, groups of keys among them."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from jprune.core.errors import InputError, unknown
from jprune.retrain import AdamW, TrainSettings
from jprune.retrain.settings import LEAST, check_fields
from jprune.transforms import Transform, add_lora
from jprune.transforms.lora import TARGETS


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """The adapters, see `jprune.add_lora`.

    Attributes:
      rank: of the update of a kernel.
      alpha: the update is scaled by alpha / rank.
      dropout: rate at which inputs of the update are dropped in training.
      targets: which projections of every block have an adapter.
    """

    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.05
    targets: tuple[str, ...] = TARGETS

    def transform(self, seed: int) -> Transform:
        """Puts the adapters on a model.

        Raises:
          InputError: a number or target that cannot be.
        """
        return add_lora(self.rank, self.alpha, self.dropout, self.targets, seed)


def filled(
    kind: Any,
    values: Any,
    prefix: str = "",
    least: Mapping[str, int] = LEAST,
    also: Collection[str] = (),
) -> Any:
    """A dataclass from keys.

    Args:
      kind: the dataclass.
      values: by the names of its fields; None for none.
      prefix: where the keys are in the config, as in `train.`.
      least: what integers take at least, see `check_fields`.
      also: keys beside the fields, which only an error names.

    Raises:
      InputError: an unknown key, a missing one, or a value that its field does not take.
    """
    given = dict(values or {})
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for key in given:
        if key not in fields:
            raise unknown("config key", f"{prefix}{key}", [prefix + n for n in {*fields, *also}])
    for name, field in fields.items():
        required = field.default is field.default_factory is dataclasses.MISSING
        if name not in given and required:
            raise InputError(f"config key '{prefix}{name}' is missing")
    check_fields(kind, given, f"config key '{prefix}{{}}'", least)
    return kind(**given)


def train_settings(values: Any, seed: int, prefix: str = "train.") -> TrainSettings:
    """The settings of the group `train`, which holds the optimizer's keys too."""
    names = {field.name for field in dataclasses.fields(AdamW)}
    given = dict(values or {})
    optimizer = {key: given.pop(key) for key in names & given.keys()}
    given |= {"optimizer": filled(AdamW, optimizer, prefix), "seed": seed}
    return filled(TrainSettings, given, prefix, also=names)


def lora_settings(values: Any, prefix: str = "lora.") -> LoraConfig:
    """The settings of the group `lora`.

    Raises:
      InputError: an unknown key, or a number or target that cannot be.
    """
    given = dict(values or {})
    if "targets" in given:
        given["targets"] = strings(given["targets"])
    config = filled(LoraConfig, given, prefix)
    config.transform(0)  # refuses what cannot be
    return config


def strings(value: Any) -> tuple[str, ...]:
    """One string, several joined by commas, or a sequence of them."""
    items = value.split(",") if isinstance(value, str) else list(value or ())
    return tuple(str(item).strip() for item in items if str(item).strip())
