"""What a run that sparsifies weights, or narrows blocks, is asked to do."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jprune.allocate import STATISTICAL, is_own, options_of
from jprune.core.errors import InputError, unknown
from jprune.core.files import sha256_file
from jprune.core.paths import as_path, file_stem
from jprune.core.plugins import code_of
from jprune.pipeline.pruning_config import (
    PruningConfig,
    check_choice,
    check_options,
    is_number,
    read_config,
    strings,
)
from jprune.pipeline.retrain_config import RetrainConfig, retrain_config
from jprune.scores import MASK_CRITERIA
from jprune.scores.inputs import OFFLOADS
from jprune.scores.masks import UNSTRUCTURED, parse_pattern
from jprune.scores.sparsify import mask_data_free
from jprune.scores.width import STATISTICS, SUBLAYERS

WIDTH = "width"
SPARSITY = 0.7  # of DLP (arXiv 2505.23807)
# Of the criterion `width`; see `jprune.scores.choose_widths`.
WIDTH_OPTIONS = ("parts", "uniform", "multiple", "statistics")


@dataclasses.dataclass(frozen=True)
class SparseConfig(PruningConfig):
    """The keys of a config for layerwise sparsity, beside those of `PruningConfig`.

    Attributes:
      criterion: which weights go: magnitude, wanda, sparsegpt, or module:function; or width: whole
        heads and neurons.
      options: of the criterion width, for example {"uniform": True, "multiple": 128}.
      allocation: how the sparsity is spread over the blocks: uniform, linear_depth, owl, dlp, the
        path of a JSON file with a density per block, or module:function.
      allocation_options: of allocations, by name: {"dlp": {"reduce": "median"}}.
      outlier_factor: a metric so many times the block's mean is an outlier to owl.
      sparsity: share of the blocks' weights that goes; None for 0.7, or what an N:M pattern gives.
      pattern: unstructured, or N:M such as 2:4: N of every M consecutive inputs stay.
      offload: what is kept on the host: none; hidden, the residual streams; weights, the model,
        which may then be larger than the device; all, both.
      compare: further allocations to be shown in the curve and the report.
      num_windows: calibration windows.
      protocol: of perplexity, a name of `jprune.evaluate.PROTOCOLS`.
      curve_sparsities: where perplexity is measured for the curve of every allocation.
      curve_windows: evaluation windows of that curve; 0 for no curve, which saves a pruning pass
        for each of its points.
      retrain: how the pruned model is trained again; see `RetrainConfig`.
    """

    criterion: str = "wanda"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    allocation: str = "dlp"
    allocation_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    outlier_factor: float = 5.0
    sparsity: float | None = None
    pattern: str = UNSTRUCTURED
    offload: str = "none"
    num_windows: int = 128
    window_length: int | None = None
    protocol: str = "gptq"
    curve_sparsities: tuple[float, ...] = ()
    retrain: RetrainConfig = RetrainConfig()

    @property
    def target(self) -> float:
        """The sparsity that is asked for."""
        pattern = parse_pattern(self.pattern)
        given = SPARSITY if pattern is None else 1 - pattern.keep / pattern.of
        return given if self.sparsity is None else self.sparsity

    @property
    def allocations(self) -> tuple[str, ...]:
        """The allocation that decides, then those to compare it with."""
        return tuple(dict.fromkeys((self.allocation, *self.compare)))

    @property
    def curve_targets(self) -> tuple[float, ...]:
        """The sparsities of the curve, the run's own among them; rising."""
        if parse_pattern(self.pattern) is not None:
            return (self.target,)  # another would be another pattern
        return tuple(sorted({*self.curve_sparsities, self.target}))

    @property
    def pass_reads_data(self) -> bool:
        """Whether the criterion reads calibration windows."""
        return self.criterion == WIDTH or not mask_data_free(self.criterion)

    @property
    def reads_data(self) -> bool:
        """Whether calibration windows are needed."""
        return self.pass_reads_data or any(map(self.needs_statistics, self.allocations))

    def needs_statistics(self, allocation: str) -> bool:
        """Whether an allocation reads statistics of the weights; the user's own may."""
        return allocation in STATISTICAL or is_own(allocation)

    def options_for(self, allocation: str) -> Mapping[str, Any]:
        """The options of one of the allocations."""
        return self.allocation_options.get(allocation, {})

    def allocation_keys(self, allocation: str) -> dict[str, Any]:
        """What the densities of an allocation depend on, apart from statistics and sparsity."""
        keys: dict[str, Any] = {"allocation": allocation} | {
            "allocation_options": dict(self.options_for(allocation))
        }
        if allocation.endswith(".json"):
            return keys | {"file": sha256_file(as_path(allocation))}
        return keys | (code_of(allocation, "allocation") if is_own(allocation) else {})

    @property
    def criterion_keys(self) -> dict[str, Any]:
        """What is pruned at given densities depends on, apart from model and data."""
        own = code_of(self.criterion, "criterion") if ":" in self.criterion else {}
        return {"criterion": self.criterion, "options": dict(self.options), **own}


def sparse_config(values: Mapping[str, Any]) -> SparseConfig:
    """The config that these keys give.

    Raises:
      InputError: an unknown key, criterion, allocation, pattern, protocol or option, with the
        nearest name; a missing model or data source; a number out of range.
    """
    fields = dict(values)
    options = dict(fields.get("options") or {})
    fields["options"] = {key: value for key, value in options.items() if value is not None}
    of_allocations = dict(fields.get("allocation_options") or {})
    fields["allocation_options"] = {key: dict(value or {}) for key, value in of_allocations.items()}
    fields["curve_sparsities"] = _numbers(fields.get("curve_sparsities", ()))
    fields["retrain"] = retrain_config(fields.get("retrain"), fields.get("seed", 0))
    config = read_config(SparseConfig, fields)
    if ":" not in config.criterion and config.criterion not in (*MASK_CRITERIA, WIDTH):
        raise unknown("criterion", config.criterion, (*MASK_CRITERIA, WIDTH))
    for name in (*config.allocations, *config.allocation_options):
        accepted = options_of(name)
        check_options(config.options_for(name), accepted, f"the allocation {name}")
        if name.endswith(".json") and not as_path(name).exists():
            raise InputError(f"no such file: {name}")
    stems = [file_stem(name) for name in config.allocations]
    if len(set(stems)) < len(stems):
        raise InputError(
            f"allocations {', '.join(config.allocations)} have names too much alike; rename one"
        )
    check_choice(config, "offload", OFFLOADS)
    _check_options(config)
    _check_sparsity(config)
    if not config.calibration:
        readers = [config.criterion] if config.pass_reads_data else []
        readers += filter(config.needs_statistics, config.allocations)
        for name in readers:
            raise InputError(f"{name} reads data: give --config.calibration=SOURCE")
    return config


def _check_options(config: SparseConfig) -> None:
    """Raises InputError for options that the criterion does not take."""
    accepted = WIDTH_OPTIONS if config.criterion == WIDTH else ()
    check_options(config.options, accepted, f"the criterion {config.criterion}")
    options = config.options
    for part in strings(options.get("parts", ())):
        if part not in SUBLAYERS:
            raise unknown("part", part, SUBLAYERS)
    if options.get("statistics", STATISTICS[0]) not in STATISTICS:
        raise unknown("statistics", str(options["statistics"]), STATISTICS)
    multiple = options.get("multiple", 1)
    if type(multiple) is not int or multiple < 1:
        raise InputError(f"neurons are rounded to a multiple of 1 or more, not {multiple}")


def _check_sparsity(config: SparseConfig) -> None:
    pattern = parse_pattern(config.pattern)
    for sparsity in (config.target, *config.curve_sparsities):
        if not is_number(sparsity) or not 0 <= sparsity < 1:
            raise InputError(
                f"sparsity {sparsity} is outside [0, 1); 0.7 prunes 70% of the weights"
            )
    if not is_number(config.outlier_factor) or config.outlier_factor <= 0:
        raise InputError(f"outlier_factor is a number above 0, not {config.outlier_factor}")
    if pattern is None:
        return
    if config.criterion == WIDTH:
        raise InputError(
            "the criterion width removes whole heads and neurons: pattern 'unstructured' fits it, "
            f"not {config.pattern}"
        )
    given = 1 - pattern.keep / pattern.of
    if abs(config.target - given) > 1e-9:
        raise InputError(
            f"pattern {pattern} prunes {given:.6g} of the weights, not {config.target}; leave out "
            "sparsity, or give N:M that fits it"
        )


def _numbers(value: Any) -> tuple[float, ...]:
    items = strings(value) if isinstance(value, str) else tuple(value or ())
    try:
        return tuple(float(item) for item in items)
    except (TypeError, ValueError):
        raise InputError(f"curve_sparsities are numbers such as 0.5,0.7, not {value}") from None
