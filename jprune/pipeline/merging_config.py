"""What a merging run is asked to do, checked before anything is loaded."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jprune.core.errors import InputError
from jprune.pipeline.pruning_config import PruningConfig, check_choice, read_config, strings
from jprune.transforms.merge import ENDS
from jprune.transforms.merge_registry import find_method
from jprune.transforms.mergeable import VOCABULARIES


@dataclasses.dataclass(frozen=True)
class MergingConfig(PruningConfig):
    """The keys of a config for merging, beside those of `PruningConfig`; it reads no calibration.

    Attributes:
      model: the base; for methods that need none, one of the models that are merged.
      variants: the models that are merged with it: folders, hub ids, adapters.
      method: linear, slerp, task_arithmetic, ties, dare, breadcrumbs, model_stock, passthrough, or
        module:function.
      options: of the method, for example {"density": 0.2, "factor": 1.0} for ties. In place of a
        number, a list of them is one for each layer.
      include_model: whether the model is merged too, rather than being the base; by default where
        the method needs no base.
      layers: where to merge, such as 0-3,-2; null for everywhere.
      ends: of embeddings, final norm and head: merge or base; null for merge, but base where
        `layers` is given.
      vocab: same, or intersect: vocabularies are cropped to the tokens that all begin with.
    """

    variants: tuple[str, ...] = ()
    method: str = "linear"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    include_model: bool | None = None
    layers: str | None = None
    ends: str | None = None
    vocab: str = "same"

    @property
    def merges_model(self) -> bool:
        """Whether the model is one of those that are merged."""
        if self.include_model is None:
            return not find_method(self.method).needs_base
        return self.include_model


def merging_config(values: Mapping[str, Any]) -> MergingConfig:
    """The config that these keys give.

    Raises:
      InputError: an unknown key, method or option, with the nearest name; a missing model, variant
        or data source; an option out of its range.
    """
    fields = dict(values)
    options = dict(fields.get("options") or {})
    fields["options"] = {key: value for key, value in options.items() if value is not None}
    fields["variants"] = strings(fields.get("variants", ()))
    config = read_config(MergingConfig, fields)
    if not config.variants:
        raise InputError("what is the model merged with? give --config.variants=FOLDER,FOLDER")
    check_choice(config, "vocab", VOCABULARIES)
    if config.ends is not None:
        check_choice(config, "ends", ENDS)
    method = find_method(config.method)
    plain = {key: value for key, value in config.options.items() if not isinstance(value, list)}
    if len(plain) == len(config.options):
        count = len(config.variants) + config.merges_model
        method.check(plain, count, not config.merges_model)
    return config
