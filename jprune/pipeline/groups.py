"""Config keys as the dataclasses that they fill, groups of keys among them."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

from jprune.core.errors import InputError, unknown
from jprune.retrain import AdamW, TrainSettings
from jprune.retrain.settings import LEAST, check_fields


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


def train_settings(values: Any, seed: int) -> TrainSettings:
    """The settings of the group `train`, which holds the optimizer's keys too."""
    names = {field.name for field in dataclasses.fields(AdamW)}
    given = dict(values or {})
    optimizer = {key: given.pop(key) for key in names & given.keys()}
    given |= {"optimizer": filled(AdamW, optimizer, "train."), "seed": seed}
    return filled(TrainSettings, given, "train.", also=names)
