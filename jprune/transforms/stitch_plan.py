"""Plans of stitching: from which layers, and which models, each layer of the result is made.

Reference: GPTailor (arXiv 2506.20480), section 3: the space of its search.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import struct

from jprune.core.errors import InputError, unknown
from jprune.llama.kernels import Leaf
from jprune.transforms.combine import Combination, combination, copy_of

_LAYER, _VARIANTS, _METHOD, _FACTOR = "layer", "variants", "method", "factor"


@dataclasses.dataclass(frozen=True)
class StitchLayer:
    """What one layer of the result is made of; t0 is the base's tensor of the source layer.

    Attributes:
      layer: of the base and the variants, from 0; None for what is not in a layer.
      variants: which of them, from 0. None: the base as it is; one: that variant as it is; several:
        task arithmetic with `factor`.
      method: another one, see `jprune.transforms.merge_registry`; with one nothing is taken as it
        is.
      factor: of task arithmetic, by default 1, and of other methods that have one. It does not
        count where a tensor is taken as it is.
      options: further ones of the method, as pairs in the order of their names; a mapping is taken.
    """

    layer: int | None
    variants: Sequence[int] = ()
    method: Any = None
    factor: Any = None
    options: Any = ()

    def __post_init__(self) -> None:
        pairs = sorted(dict(self.options).items())
        object.__setattr__(self, "options", tuple((key, _hashable(value)) for key, value in pairs))
        object.__setattr__(self, "variants", tuple(self.variants))
        self.combination()

    def combination(self) -> Combination:
        """The same over the models base, variant 0, variant 1, ...

        Raises:
          InputError: the method, its options or the number of variants.
        """
        sources = [1 + variant for variant in self.variants]
        if self.method is not None:
            given = {} if self.factor is None else {_FACTOR: self.factor}
            return combination(self.method, given | dict(self.options), 0, sources)
        for name, _ in self.options:
            raise InputError(f"{name} is an option of a method, but no method is named")
        factor = {_FACTOR: 1.0 if self.factor is None else self.factor}
        several = combination("task_arithmetic", factor, 0, sources or [0])
        return several if len(sources) > 1 else copy_of(sources[0] if sources else 0)

    def to_json(self) -> dict[str, Any]:
        """The row of a plan in JSON."""
        row: dict[str, Any] = {_LAYER: self.layer, _VARIANTS: list(self.variants)}
        for key, value in ((_METHOD, self.method), (_FACTOR, self.factor)):
            row |= {} if value is None else {key: value}
        row |= {key: list(x) if isinstance(x, tuple) else x for key, x in self.options}
        return {key: value for key, value in row.items() if key != _LAYER or value is not None}


@dataclasses.dataclass(frozen=True)
class StitchPlan:
    """The layers of a model that is stitched together from a base and its variants.

    Attributes:
      layers: of the result, in order.
      ends: what embeddings, final norm and head are made of; the base's by default.
      names: of the variants; empty where they have only numbers.
    """

    layers: Sequence[StitchLayer]
    ends: StitchLayer = StitchLayer(None)
    names: Sequence[str] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "names", tuple(self.names))
        if not self.layers:
            raise InputError("a plan without layers leaves no model; keep at least one")

    @property
    def num_variants(self) -> int:
        """How many variants there are at least."""
        used = [index for row in (*self.layers, self.ends) for index in row.variants]
        return max(len(self.names), 1 + max(used, default=-1))

    def check(self, num_layers: int, num_variants: int, remove: int | None = None) -> None:
        """Raises InputError unless the plan fits its models.

        Args:
          num_layers: of the base and the variants.
          num_variants: how many variants there are.
          remove: so many layers must be gone, and all others there once and in order.
        """
        if num_variants < self.num_variants:
            raise InputError(
                f"the plan has variant {self.num_variants - 1}, but there are {num_variants} "
                "variants, numbered from 0"
            )
        layers = [row.layer for row in self.layers]
        for number, layer in enumerate(layers):
            if not 0 <= layer < num_layers:
                raise InputError(
                    f"layer {number} of the plan is from layer {layer}, but the models have "
                    f"{num_layers} layers, 0 to {num_layers - 1}"
                )
        if remove is None:
            return
        gone = num_layers - len(set(layers))
        if gone != remove:
            raise InputError(f"the plan leaves out {gone} of {num_layers} layers, not {remove}")
        if layers != sorted(set(layers)):
            raise InputError(f"layers {layers} of the plan are not in order, each once")

    def to_json(self) -> dict[str, Any]:
        """The plan as recipes and searches write it; variants are numbers."""
        data: dict[str, Any] = {"layers": [row.to_json() for row in self.layers]}
        if self.ends != StitchLayer(None):
            data["ends"] = self.ends.to_json()
        if self.names:
            data["variants"] = list(self.names)
        return data

    @staticmethod
    def from_json(data: Any, names: Sequence[str] = ()) -> "StitchPlan":
        """The plan of what `to_json` writes, or of the list of its layers alone.

        Args:
          data: {"layers": [{"layer": 3, "variants": [0, 2], "factor": 0.4}, ...], "ends": {...},
            "variants": [...]}; all but layers may be missing. Variants are numbers, or names of
            "variants".
          names: stand for "variants".

        Raises:
          InputError: it is no plan, or a variant, method or option that is not there.
        """
        data = {"layers": data} if isinstance(data, list | tuple) else data
        if not isinstance(data, Mapping) or not isinstance(data.get("layers"), list | tuple):
            raise InputError(
                'this is no plan; one looks like {"layers": [{"layer": 0, "variants": [1, 2], '
                '"factor": 0.5}, ...]}'
            )
        extra = [key for key in data if key not in ("layers", "ends", "variants")]
        if extra:
            raise unknown("key of a plan", extra[0], ("layers", "ends", "variants"))
        known = tuple(names or data.get("variants", ()))
        rows = tuple(_row(row, f"layer {i}", known) for i, row in enumerate(data["layers"]))
        ends = data.get("ends")
        if ends is None:
            return StitchPlan(rows, names=known)
        return StitchPlan(rows, _row({**ends, _LAYER: None}, "ends", known), known)


@struct.dataclass
class Coefficients:
    """A plan of methods linear in the tensors, as arrays: what a virtual model can evaluate.

    Attributes:
      source_layer: of each layer of the result [depth], int32.
      mix: coefficients of the tensors of the base and the variants there [depth, 1 + variants],
        float32, for `jprune.llama.mixing.mix_tensors`.
      ends: those of embeddings, final norm and head [1 + variants].
    """

    source_layer: Leaf
    mix: Leaf
    ends: Leaf


def coefficients(plan: StitchPlan, num_variants: int | None = None) -> Coefficients:
    """The arrays of a plan; `stitch_models` computes with the same.

    Args:
      plan: of linear, task_arithmetic and passthrough only.
      num_variants: how many there are, by default as many as the plan knows.

    Raises:
      InputError: another method.
    """
    number = plan.num_variants if num_variants is None else num_variants
    if number < plan.num_variants:
        raise InputError(f"the plan has {plan.num_variants} variants, not {number}")
    rows = []
    for row in (*plan.layers, plan.ends):
        mix = row.combination().mix(1 + number)
        if mix is None:
            raise InputError(
                f"{row.method} is not linear in the tensors, so that it has no coefficients; "
                "stitch the model instead"
            )
        rows.append(mix)
    layers = np.asarray([row.layer for row in plan.layers], np.int32)
    return Coefficients(layers, np.stack(rows[:-1]), rows[-1])


def _row(row: Any, where: str, names: Sequence[str]) -> StitchLayer:
    if not isinstance(row, Mapping) or _LAYER not in row:
        raise InputError(
            f'{where} of a plan is {{"layer": 3, "variants": [0, 2], "factor": 0.4}}, not {row!r}'
        )
    layer, variants = row[_LAYER], row.get(_VARIANTS, ())
    if layer is not None and (type(layer) is not int or layer < 0):
        raise InputError(f"{where} of the plan is from layer {layer!r}; layers are numbers from 0")
    if not isinstance(variants, list | tuple):
        raise InputError(f"variants of {where} of the plan are a list, not {variants!r}")
    found = tuple(_variant(variant, where, names) for variant in variants)
    if len(set(found)) < len(found):
        raise InputError(f"variants {list(variants)} of {where} of the plan name one twice")
    rest = {key: row[key] for key in row if key not in (_LAYER, _VARIANTS, _METHOD, _FACTOR)}
    try:
        return StitchLayer(layer, found, row.get(_METHOD), row.get(_FACTOR), rest)
    except InputError as error:
        raise InputError(f"{where} of the plan: {error}") from None


def _variant(variant: Any, where: str, names: Sequence[str]) -> int:
    if isinstance(variant, str):
        if variant not in names:
            raise unknown("variant", variant, names)
        return list(names).index(variant)
    if type(variant) is not int or variant < 0:
        raise InputError(f"variant {variant!r} of {where} of the plan is no name and no number")
    if names and variant >= len(names):
        raise InputError(
            f"{where} of the plan has variant {variant}, but there are {len(names)}: "
            f"{', '.join(names)}"
        )
    return variant


def _hashable(value: Any) -> Any:
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value
