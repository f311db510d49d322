"""What a depth pruning run is asked to do, checked before anything is loaded."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jprune.checkpoints import as_dtype
from jprune.core.errors import InputError, unknown
from jprune.data import SAMPLES
from jprune.evaluate import PROTOCOLS
from jprune.scores import (
    CRITERIA,
    DATA_FREE,
    GRANULARITIES,
    Scores,
    Unit,
    options_of,
    parse_layers,
    select,
)
from jprune.scores.units import PARTS

# Set by the run itself from keys of their own.
_OWN_OPTIONS = ("seed", "remove", "batch_size")


@dataclasses.dataclass(frozen=True)
class DepthConfig:
    """The keys of a config for depth pruning.

    Attributes:
      model: folder or hub id.
      calibration: data source of the criteria that read data.
      eval: data sources of the perplexities before and after; the first one's also of the curve.
      criterion: which score decides; a name of `jprune.scores.CRITERIA` or module:function.
      options: of the criterion, for example {"reduce": "fisher"} for taylor.
      compare: further criteria to be shown in the curve and the report.
      remove: how many units go.
      granularity: of the units.
      protect: layers out of reach, for example "0-3,-2,-1".
      num_windows: calibration windows.
      window_length: tokens of each.
      sample: how they are drawn.
      protocol: of perplexity, a name of `jprune.evaluate.PROTOCOLS`.
      eval_windows: at most so many windows of each data source; None for all.
      curve_windows: windows of the curve of perplexity against units removed; 0 for no curve.
      curve_remove: how far the curve goes; by default `remove` + 2.
      curve_seeds: random removals in it, with the seeds 0, 1, ...
      dtype: the model is run in; None for float32 on CPU and the checkpoint's elsewhere.
      mesh: devices that share the work, for example "data:2,fsdp:4"; None for a single one.
      seed: of the calibration windows.
      data_dir: folder with local copies of known data sources.
    """

    model: str
    calibration: str | None = None
    eval: tuple[str, ...] = ()
    criterion: str = "perplexity"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    compare: tuple[str, ...] = ()
    remove: int = 0
    granularity: str = "block"
    protect: str = ""
    num_windows: int = 32
    window_length: int = 128
    sample: str = "documents"
    protocol: str = "shortened"
    eval_windows: int | None = 256
    curve_windows: int = 64
    curve_remove: int | None = None
    curve_seeds: int = 3
    dtype: str | None = None
    mesh: str | None = None
    seed: int = 0
    data_dir: str | None = None

    @property
    def criteria(self) -> tuple[str, ...]:
        """The criterion that decides, then those to compare it with."""
        return (self.criterion, *(name for name in self.compare if name != self.criterion))

    @property
    def reads_data(self) -> bool:
        """Whether any of the criteria takes calibration windows; the user's own may."""
        return any(name not in DATA_FREE for name in self.criteria)

    @property
    def needs_data(self) -> bool:
        """Whether any of the criteria cannot do without."""
        return any(name in CRITERIA and name not in DATA_FREE for name in self.criteria)

    @property
    def curve_reach(self) -> int:
        """The largest number of units that the curve removes."""
        return self.remove + 2 if self.curve_remove is None else self.curve_remove


def depth_config(values: Mapping[str, Any]) -> DepthConfig:
    """The config that these keys give.

    Raises:
      InputError: an unknown key, criterion, granularity, protocol or option, with the nearest
        name; a missing model or data source; a number out of range.
    """
    known = {field.name for field in dataclasses.fields(DepthConfig)}
    for key in values:
        if key not in known:
            raise unknown("config key", str(key), sorted(known))
    if not values.get("model"):
        raise InputError("which model? give --config.model=FOLDER (or a Hugging Face hub id)")
    fields = dict(values)
    fields["model"] = str(fields["model"])
    for key in ("eval", "compare"):
        fields[key] = _strings(fields.get(key, ()))
    fields["options"] = dict(fields.get("options") or {})
    for key in ("calibration", "data_dir", "dtype", "mesh"):
        fields[key] = None if fields.get(key) in (None, "") else str(fields[key])
    config = DepthConfig(**fields)
    _check_names(config)
    _check_numbers(config)
    if config.needs_data and not config.calibration:
        raise InputError(
            f"the criterion {config.criterion} reads data: give --config.calibration=SOURCE"
        )
    if not config.eval:
        raise InputError("nothing to evaluate on: give --config.eval=SOURCE (or several, a,b)")
    return config


def check_removal(config: DepthConfig, num_layers: int) -> None:
    """Raises InputError if a model of so many layers cannot lose so many units."""
    protected = parse_layers(config.protect, num_layers)
    parts = PARTS[config.granularity]
    found = tuple(Unit(layer, part) for layer in range(num_layers) for part in parts)
    order = tuple(i for i, unit in enumerate(found) if unit.layer not in protected)
    select(
        Scores("", config.granularity, found, (0.0,) * len(found), order, protected), config.remove
    )


def _check_names(config: DepthConfig) -> None:
    for name in config.criteria:
        if ":" not in name and name not in CRITERIA:
            raise unknown("criterion", name, CRITERIA)
    choices = {"granularity": GRANULARITIES, "protocol": PROTOCOLS, "sample": SAMPLES}
    for key, names in choices.items():
        if getattr(config, key) not in names:
            raise unknown(key, str(getattr(config, key)), names)
    if config.dtype not in (None, "checkpoint"):
        as_dtype(config.dtype)
    accepted = options_of(config.criterion)
    for option in config.options:
        if accepted is None:
            continue
        choices_left = [name for name in accepted if name not in _OWN_OPTIONS]
        if option not in choices_left:
            if not choices_left:
                raise InputError(
                    f"the criterion {config.criterion} has no options, but got {option!r}"
                )
            raise unknown(f"option of {config.criterion}", option, choices_left)
    for name in config.criteria:
        if name == "angular" and config.granularity != "block":
            raise InputError(
                "angular scores are of contiguous blocks: use --config.granularity=block, "
                f"not {config.granularity}"
            )


def _check_numbers(config: DepthConfig) -> None:
    least = {
        "remove": 0,
        "num_windows": 1,
        "window_length": 2,
        "eval_windows": 1,
        "curve_windows": 0,
        "curve_remove": 0,
        "curve_seeds": 0,
        "seed": 0,
    }
    for key, minimum in least.items():
        value = getattr(config, key)
        if value is None and key in ("eval_windows", "curve_remove"):
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise InputError(f"config key {key!r} takes an integer from {minimum} on, not {value}")


def _strings(value: Any) -> tuple[str, ...]:
    """One string, several joined by commas, or a sequence of them."""
    items = value.split(",") if isinstance(value, str) else list(value or ())
    return tuple(str(item).strip() for item in items if str(item).strip())
