"""What a depth pruning run is asked to do, checked before anything is loaded."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jprune.core.errors import InputError, unknown
from jprune.pipeline.pruning_config import (
    PruningConfig,
    check_choice,
    check_integers,
    check_options,
    read_config,
)
from jprune.pipeline.retrain_config import RetrainConfig, retrain_config
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
class DepthConfig(PruningConfig):
    """The keys of a config for depth pruning, beside those of `PruningConfig`.

    Attributes:
      criterion: which score decides; a name of `jprune.scores.CRITERIA` or module:function.
      options: of the criterion, for example {"reduce": "fisher"} for taylor.
      compare: further criteria to be shown in the curve and the report.
      remove: how many units go.
      granularity: of the units.
      protect: layers out of reach, for example "0-3,-2,-1".
      curve_windows: windows of the curve of perplexity against units removed; 0 for no curve.
      curve_remove: how far the curve goes; by default `remove` + 2.
      curve_seeds: random removals in it, with the seeds 0, 1, ...
      retrain: how the pruned model is trained again; see `RetrainConfig`.
    """

    criterion: str = "perplexity"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    remove: int = 0
    granularity: str = "block"
    protect: str = ""
    curve_remove: int | None = None
    curve_seeds: int = 3
    retrain: RetrainConfig = RetrainConfig()

    @property
    def criteria(self) -> tuple[str, ...]:
        """The criterion that decides, then those to compare it with."""
        return tuple(dict.fromkeys((self.criterion, *self.compare)))

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
    fields = dict(values) | {
        "options": dict(values.get("options") or {}),
        "retrain": retrain_config(values.get("retrain"), values.get("seed", 0)),
    }
    config = read_config(DepthConfig, fields)
    for name in config.criteria:
        if ":" not in name and name not in CRITERIA:
            raise unknown("criterion", name, CRITERIA)
        if name == "angular" and config.granularity != "block":
            raise InputError(
                "angular scores are of contiguous blocks: use --config.granularity=block, "
                f"not {config.granularity}"
            )
    check_choice(config, "granularity", GRANULARITIES)
    accepted = options_of(config.criterion)
    if accepted is not None:
        accepted = tuple(name for name in accepted if name not in _OWN_OPTIONS)
    check_options(config.options, accepted, f"the criterion {config.criterion}")
    check_integers(config, {"remove": 0, "curve_seeds": 0})
    check_integers(config, {"curve_remove": 0}, optional=True)
    if config.needs_data and not config.calibration:
        raise InputError(
            f"the criterion {config.criterion} reads data: give --config.calibration=SOURCE"
        )
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
