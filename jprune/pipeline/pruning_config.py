"""What every pruning run is asked: the model, its data, and how it is measured."""

import dataclasses
import math
from collections.abc import Collection, Mapping
from typing import Any, TypeVar

from jprune.checkpoints import as_dtype
from jprune.core.errors import InputError, unknown
from jprune.data import SAMPLES
from jprune.evaluate import PROTOCOLS
from jprune.pipeline.groups import strings

__all__ = [
    "PruningConfig",
    "check_choice",
    "check_integers",
    "check_options",
    "is_number",
    "read_config",
    "strings",
]

T = TypeVar("T", bound="PruningConfig")


@dataclasses.dataclass(frozen=True)
class PruningConfig:
    """The keys that configs of all pruning jobs have.

    Attributes:
      model: folder or hub id.
      calibration: data source of the criteria that read data.
      eval: data sources of the perplexities before and after; the first one's also of the curve.
      compare: what else is to be shown in the curve and the report.
      num_windows: calibration windows.
      window_length: tokens of each; None for 2048, or the model's maximum if that is smaller.
      sample: how they are drawn.
      protocol: of perplexity, a name of `jprune.evaluate.PROTOCOLS`.
      eval_windows: at most so many windows of each data source; None for all.
      curve_windows: evaluation windows of the curve; 0 for no curve.
      dtype: the model is run in; None for float32 on CPU and the checkpoint's elsewhere.
      mesh: devices that share the work, for example "data:2,fsdp:4"; None for a single one.
      seed: of the calibration windows.
      data_dir: folder with local copies of known data sources.
    """

    model: str
    calibration: str | None = None
    eval: tuple[str, ...] = ()
    compare: tuple[str, ...] = ()
    num_windows: int = 32
    window_length: int | None = 128
    sample: str = "documents"
    protocol: str = "shortened"
    eval_windows: int | None = 256
    curve_windows: int = 64
    dtype: str | None = None
    mesh: str | None = None
    seed: int = 0
    data_dir: str | None = None


def read_config(kind: type[T], values: Mapping[str, Any]) -> T:
    """The config that these keys give, without the checks of values that `kind` alone has.

    Raises:
      InputError: an unknown key or name, with the nearest one; a missing model or evaluation data;
        a number out of range.
    """
    known = {field.name for field in dataclasses.fields(kind)}
    for key in values:
        if key not in known:
            raise unknown("config key", str(key), sorted(known))
    if not values.get("model"):
        raise InputError("which model? give --config.model=FOLDER (or a Hugging Face hub id)")
    fields = dict(values)
    fields["model"] = str(fields["model"])
    for key in ("eval", "compare"):
        fields[key] = strings(fields.get(key, ()))
    for key in ("calibration", "data_dir", "dtype", "mesh"):
        fields[key] = None if fields.get(key) in (None, "") else str(fields[key])
    config = kind(**fields)
    for key, names in {"protocol": PROTOCOLS, "sample": SAMPLES}.items():
        check_choice(config, key, names)
    if config.dtype not in (None, "checkpoint"):
        as_dtype(config.dtype)
    check_integers(config, {"num_windows": 1, "curve_windows": 0, "seed": 0})
    check_integers(config, {"window_length": 2, "eval_windows": 1}, optional=True)
    if not config.eval:
        raise InputError("nothing to evaluate on: give --config.eval=SOURCE (or several, a,b)")
    return config


def check_choice(config: Any, key: str, names: Collection[str]) -> None:
    """Raises InputError, with the nearest name, if the value of a key is none of `names`."""
    if getattr(config, key) not in names:
        raise unknown(key, str(getattr(config, key)), names)


def check_integers(config: Any, least: Mapping[str, int], *, optional: bool = False) -> None:
    """Raises InputError if the value of a key is no integer from its least one on.

    Args:
      config: has the keys as attributes.
      least: by key.
      optional: None is a value too.
    """
    for key, minimum in least.items():
        value = getattr(config, key)
        if value is None and optional:
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise InputError(f"config key {key!r} takes an integer from {minimum} on, not {value}")


def is_number(value: Any) -> bool:
    """Whether a value is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_options(options: Mapping[str, Any], accepted: Collection[str] | None, owner: str) -> None:
    """Raises InputError for an option that its owner, such as 'the criterion taylor', has not.

    Args:
      options: as given.
      accepted: their names; None if the owner is the user's own and takes any.
      owner: for the message.
    """
    if accepted is None:
        return
    for option in options:
        if option not in accepted:
            if not accepted:
                raise InputError(f"{owner} has no options, but got {option!r}")
            raise unknown(f"option of {owner.split()[-1]}", option, accepted)
