"""Candidates of a search: which units are gone, and what the kept layers are made of."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from jprune.core.errors import InputError
from jprune.scores.units import SUBLAYERS, Unit
from jprune.transforms.stitch_plan import StitchLayer, StitchPlan

_EXAMPLE = (
    '{"removed": [{"layer": 3, "part": "block"}], '
    '"mixes": [{"layer": 0, "variants": [0, 2], "factor": 0.4}]}'
)


@dataclasses.dataclass(frozen=True)
class Mix:
    """A kept layer that is not the base's own.

    Attributes:
      layer: which, from 0.
      variants: one, which is taken as it is, or several, merged by task arithmetic: the base plus
        `factor` times the sum of their differences to it. In ascending order; any is taken.
      factor: in [0, 1], with several variants by default 1; None with one.
    """

    layer: int
    variants: tuple[int, ...]
    factor: float | None = None

    def __post_init__(self) -> None:
        variants = tuple(sorted(self.variants))
        if not variants or variants[0] < 0 or len({*variants}) < len(variants):
            raise InputError(
                f"a mix of layer {self.layer} has some variants, numbers from 0, each once; "
                f"not {list(self.variants)}"
            )
        object.__setattr__(self, "variants", variants)
        factor = None if len(variants) == 1 else 1.0 if self.factor is None else self.factor
        if factor is not None and not 0 <= factor <= 1:
            raise InputError(f"the factor of layer {self.layer} is in [0, 1], not {factor}")
        object.__setattr__(self, "factor", None if factor is None else float(factor))

    def to_json(self) -> dict[str, Any]:
        """The row of a candidate in JSON."""
        row: dict[str, Any] = {"layer": self.layer, "variants": list(self.variants)}
        return row if self.factor is None else row | {"factor": self.factor}


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One point of a space; equal ones are the same model. Without anything it is the base.

    Attributes:
      removed: units of the base that are gone, in order of depth.
      mixes: of the kept layers that are not the base's own, in order of depth. One of factor 0 is
        the base's own.
    """

    removed: tuple[Unit, ...] = ()
    mixes: tuple[Mix, ...] = ()

    def __post_init__(self) -> None:
        removed = tuple(sorted(self.removed))
        mixes = tuple(sorted((m for m in self.mixes if m.factor != 0), key=lambda mix: mix.layer))
        twice = _twice(removed)
        if twice is not None:
            raise InputError(f"a candidate removes {twice} twice")
        twice = _twice([mix.layer for mix in mixes])
        if twice is not None:
            raise InputError(f"a candidate mixes layer {twice} twice")
        gone = {unit.layer for unit in removed if unit.part == "block"}
        for mix in mixes:
            if mix.layer in gone:
                raise InputError(f"a candidate mixes layer {mix.layer}, which it removes")
        object.__setattr__(self, "removed", removed)
        object.__setattr__(self, "mixes", mixes)

    def gates(self, num_layers: int) -> Bool[np.ndarray, "layers 2"]:
        """Of every layer, whether its attention and whether its MLP stay."""
        gates = np.ones((num_layers, 2), bool)
        for unit in self.removed:
            gates[unit.layer, list(SUBLAYERS[unit.part])] = False
        return gates

    def plan(self, num_layers: int, names: Sequence[str] = ()) -> StitchPlan:
        """The same as a plan of `jprune.transforms.stitch`.

        Args:
          num_layers: of the base.
          names: of the variants.

        Raises:
          InputError: a sublayer goes alone, which no plan can say, or all layers go.
        """
        gates = self.gates(num_layers)
        half = np.flatnonzero(gates[:, 0] != gates[:, 1])
        if half.size:
            part = "attention" if gates[half[0], 1] else "mlp"
            raise InputError(
                f"a plan is made of whole layers, but this candidate removes {part} {half[0]} "
                "alone; use its removed units"
            )
        mixes = {mix.layer: mix for mix in self.mixes}
        rows = []
        for layer in np.flatnonzero(gates[:, 0]).tolist():
            mix = mixes.get(layer)
            row = StitchLayer(layer, mix.variants, None, mix.factor) if mix else StitchLayer(layer)
            rows.append(row)
        return StitchPlan(tuple(rows), names=tuple(names))

    def to_json(self) -> dict[str, Any]:
        """The candidate as studies and results write it."""
        data: dict[str, Any] = {"removed": [unit.to_json() for unit in self.removed]}
        return data | ({"mixes": [mix.to_json() for mix in self.mixes]} if self.mixes else {})

    @staticmethod
    def from_json(data: Any) -> "Candidate":
        """The candidate of what `to_json` gave.

        Raises:
          InputError: it is none.
        """
        if not isinstance(data, Mapping) or "removed" not in data:
            raise InputError(f"this is no candidate; one looks like {_EXAMPLE}")
        try:
            removed = tuple(Unit(int(unit["layer"]), unit["part"]) for unit in data["removed"])
            mixes = tuple(
                Mix(int(mix["layer"]), tuple(map(int, mix["variants"])), mix.get("factor"))
                for mix in data.get("mixes", ())
            )
        except (KeyError, TypeError, ValueError, AttributeError):
            raise InputError(f"this is no candidate; one looks like {_EXAMPLE}") from None
        return Candidate(removed, mixes)


def _twice(values: Sequence[Any]) -> Any:
    """The first value of a sorted sequence that is there twice, or None."""
    return next((one for one, other in itertools.pairwise(values) if one == other), None)
