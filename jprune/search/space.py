"""Search spaces: all candidates with exactly so many units gone."""

import dataclasses
import itertools
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from jprune.core.errors import InputError
from jprune.llama.model import Llama
from jprune.scores.units import PARTS, Unit, is_present, parse_layers, present, units
from jprune.search.candidates import Candidate, Mix

# Factors have two digits: finer ones change no loss, and coarser candidates meet again.
FACTOR_DIGITS = 2
MAX_VARIANTS = 8

Subset = tuple[int, ...]


class Space:
    """What both kinds of spaces have in common.

    Attributes:
      num_layers: of the base.
      units: those that may go, in order of depth.
      remove: how many of them are gone in every candidate.
      variants: names of the models that kept layers may be taken from or merged of.
    """

    num_layers: int
    remove: int
    variants: tuple[str, ...] = ()

    @property
    def units(self) -> tuple[Unit, ...]:
        """The units that may go."""
        raise NotImplementedError

    @cached_property
    def subsets(self) -> tuple[Subset, ...]:
        """All subsets of the variants; the first is empty, the base's own layer."""
        everything = range(len(self.variants))
        sizes = range(len(self.variants) + 1)
        return tuple(s for size in sizes for s in itertools.combinations(everything, size))

    def kept_layers(self, removed: Sequence[Unit]) -> list[int]:
        """The layers of which something stays."""
        gates = Candidate(tuple(removed)).gates(self.num_layers)
        return np.flatnonzero(gates.any(axis=1)).tolist()

    def check(self, candidate: Candidate) -> None:
        """Raises InputError unless the candidate is one of this space."""
        for unit in candidate.removed:
            if unit not in self.units:
                raise InputError(f"{unit} is not among the units that this search may remove")
        if len(candidate.removed) != self.remove:
            raise InputError(
                f"the candidate removes {len(candidate.removed)} units; all of this search remove "
                f"{self.remove}"
            )
        kept = self.kept_layers(candidate.removed)
        for mix in candidate.mixes:
            if mix.layer not in kept:
                raise InputError(f"the candidate mixes layer {mix.layer}, which is not kept")
            if mix.variants[-1] >= len(self.variants):
                raise InputError(
                    f"the candidate has variant {mix.variants[-1]}; this search has "
                    f"{len(self.variants)}, numbered from 0"
                )

    def random(self, rng: np.random.Generator) -> Candidate:
        """A candidate drawn evenly: which units go, and subsets and factors of the kept layers."""
        chosen = rng.choice(len(self.units), self.remove, replace=False)
        removed = tuple(self.units[i] for i in chosen)
        mixes = (self.random_mix(layer, rng) for layer in self.kept_layers(removed))
        return Candidate(removed, tuple(mix for mix in mixes if mix))

    def random_mix(self, layer: int, rng: np.random.Generator) -> Mix | None:
        """A mix of a kept layer drawn evenly; None for the base's own."""
        subset = self.subsets[rng.integers(len(self.subsets))]
        return mix_of(layer, subset, rng.uniform()) if subset else None

    def to_json(self) -> dict[str, Any]:
        """What tells this space from others."""
        raise NotImplementedError


def mix_of(layer: int, subset: Subset, factor: float) -> Mix | None:
    """The mix of a layer from a subset of the variants and a factor; None for the base's own."""
    return Mix(layer, subset, round(factor, FACTOR_DIGITS)) if subset else None


@dataclasses.dataclass(frozen=True)
class DropSpace(Space):
    """All ways to remove `remove` of some units of one model.

    >>> DropSpace.of(llama, 4, "block", protect="0-3,-2,-1")

    Attributes:
      num_layers: of the model.
      removable: the units that may go.
      remove: how many of them go.
    """

    num_layers: int
    removable: tuple[Unit, ...]
    remove: int

    def __post_init__(self) -> None:
        removable = tuple(sorted(self.removable))
        object.__setattr__(self, "removable", removable)
        if len(set(removable)) < len(removable):
            raise InputError("the units that a search may remove are named twice")
        for unit in removable:
            if not 0 <= unit.layer < self.num_layers:
                raise InputError(
                    f"there is no {unit}: the model has {self.num_layers} layers, "
                    f"0 to {self.num_layers - 1}"
                )
        whole = {unit.layer for unit in removable if unit.part == "block"}
        for unit in removable:
            if unit.part != "block" and unit.layer in whole:
                raise InputError(f"a search removes block {unit.layer} or {unit}, not both")
        if self.remove < 1:
            raise InputError(f"a search removes 1 unit or more, not {self.remove}")
        if self.remove > len(removable):
            raise InputError(
                f"cannot remove {self.remove} units: only {len(removable)} may go; remove fewer or "
                "protect fewer"
            )
        everything = not Candidate(removable).gates(self.num_layers).any()
        if everything and self.remove == len(removable):
            raise InputError(
                f"removing all {len(removable)} units leaves no model; keep at least one"
            )

    @staticmethod
    def of(
        llama: Llama, remove: int, granularity: str = "block", protect: Any = None
    ) -> "DropSpace":
        """The space of a model.

        Args:
          llama: the model, or its shapes.
          remove: how many units go.
          granularity: which units: block, attention, mlp or sublayer.
          protect: layers out of reach, see `parse_layers`.

        Raises:
          InputError: an unknown granularity or layer; not enough units.
        """
        protected, there = parse_layers(protect, llama.num_layers), present(llama)
        removable = tuple(
            unit
            for unit in units(llama, granularity)
            if unit.layer not in protected and is_present(unit, there)
        )
        return DropSpace(llama.num_layers, removable, remove)

    @property
    def units(self) -> tuple[Unit, ...]:
        """The units that may go."""
        return self.removable

    def to_json(self) -> dict[str, Any]:
        """What tells this space from others."""
        removable = [str(unit) for unit in self.removable]
        return {"kind": "drop", "layers": self.num_layers, "remove": self.remove} | {
            "removable": removable
        }


@dataclasses.dataclass(frozen=True)
class StitchSpace(Space):
    """All models stitched together from a base and its variants with `remove` layers gone.

    Every kept layer is made of any subset of the variants: of none, it is the base's; of one, that
    variant's; of several, they are merged by task arithmetic with a factor in [0, 1].

    Reference: GPTailor (arXiv 2506.20480), section 3.

    Attributes:
      num_layers: of the base and the variants.
      remove: how many layers go.
      variants: names of the variants.
      protected: layers that are always kept; they too are mixed.
    """

    num_layers: int
    remove: int
    variants: tuple[str, ...]
    protected: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "variants", tuple(self.variants))
        object.__setattr__(self, "protected", parse_layers(self.protected, self.num_layers))
        if not self.variants:
            raise InputError(
                "a search that stitches needs at least one variant; to remove layers of one model, "
                "use DropSpace"
            )
        if len(set(self.variants)) < len(self.variants):
            raise InputError(f"variants {', '.join(self.variants)} name one twice")
        if len(self.variants) > MAX_VARIANTS:
            raise InputError(
                f"{len(self.variants)} variants have {2 ** len(self.variants)} subsets for every "
                f"layer; search with {MAX_VARIANTS} variants at most"
            )
        if self.remove < 0:
            raise InputError(f"a search removes 0 layers or more, not {self.remove}")
        if self.remove >= self.num_layers:
            raise InputError(
                f"removing {self.remove} of {self.num_layers} layers leaves no model; keep at "
                "least one"
            )
        if self.remove > len(self.units):
            raise InputError(
                f"cannot remove {self.remove} layers: only {len(self.units)} may go; remove fewer "
                "or protect fewer"
            )

    @property
    def units(self) -> tuple[Unit, ...]:
        """The units that may go: blocks."""
        (part,) = PARTS["block"]
        layers = range(self.num_layers)
        return tuple(Unit(layer, part) for layer in layers if layer not in self.protected)

    def to_json(self) -> dict[str, Any]:
        """What tells this space from others."""
        return {
            "kind": "stitch",
            "layers": self.num_layers,
            "remove": self.remove,
            "variants": list(self.variants),
            "protected": list(self.protected),
        }
