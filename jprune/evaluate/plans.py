"""What evaluation sees of a plan: the layers that a candidate runs, and what each is made of.

Plans of stitching (`jprune.transforms.StitchPlan`) are such plans; `Removal` is one too.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np

from jprune.core.errors import InputError
from jprune.llama.kernels import Leaf


@runtime_checkable
class Combination(Protocol):
    """How a tensor is made from the corresponding ones of the sources."""

    def mix(self, number: int) -> np.ndarray | None:
        """The coefficients of `number` sources; None if the method is not linear in them."""

    def tensor(self, name: str, tensors: Sequence[Any], like: Leaf) -> Leaf:
        """The tensor of this name from those of all sources, in dtype and place like another."""


@runtime_checkable
class PlanRow(Protocol):
    """A layer of a plan; equal ones are made equally, and they can be hashed."""

    @property
    def layer(self) -> int | None:
        """Which layer of the sources; None for embeddings, final norm and head."""

    def combination(self) -> Combination:
        """How its tensors are made."""


@runtime_checkable
class Plan(Protocol):
    """The layers of a model in order, and its ends."""

    @property
    def layers(self) -> Sequence[Any]:
        """A `PlanRow` for each layer."""

    @property
    def ends(self) -> Any:
        """The `PlanRow` of embeddings, final norm and head."""

    def check(self, num_layers: int, num_variants: int) -> None:
        """Raises InputError unless the plan fits a base and so many variants."""


@dataclasses.dataclass(frozen=True)
class Removal:
    """The base without some of its sublayers.

    Attributes:
      gates: of every layer whether its attention and whether its MLP run [layers, 2]; a layer of
        which neither does is gone. Arrays are taken.
    """

    gates: Any

    def __post_init__(self) -> None:
        gates = np.asarray(self.gates)
        if gates.ndim != 2 or gates.shape[1] != 2:
            raise InputError(
                "gates are two truths for every layer, of its attention and its MLP: [layers, 2], "
                f"not {list(gates.shape)}"
            )
        rows = tuple((bool(attn), bool(mlp)) for attn, mlp in gates)
        object.__setattr__(self, "gates", rows)


@dataclasses.dataclass(frozen=True)
class Mixture:
    """What tensors are made of. Equal mixtures of the same tensors are equal.

    Attributes:
      mix: the coefficients of the sources; None where the method is not linear in them.
      row: of the plan, where there are no coefficients.
    """

    mix: tuple[float, ...] | None
    row: Any = None


@dataclasses.dataclass(frozen=True)
class Step:
    """What a candidate runs of a layer.

    Attributes:
      layer: of the sources.
      mixture: what the layer's tensors are made of.
      attn: whether the attention runs.
      mlp: whether the MLP runs.
    """

    layer: int
    mixture: Mixture
    attn: bool
    mlp: bool


# The ends of a model, and the steps in order.
Candidate = tuple[Mixture, tuple[Step, ...]]


def candidate_of(
    plan: Plan | Removal, there: Sequence[tuple[bool, bool]], num_sources: int
) -> Candidate:
    """What a plan runs, layers of which nothing runs left out.

    Args:
      plan: the candidate.
      there: of every layer of the sources, whether its attention and its MLP exist.
      num_sources: the base and its variants.

    Raises:
      InputError: the plan does not fit the sources.
    """
    if isinstance(plan, Removal):
        if len(plan.gates) != len(there):
            raise InputError(
                f"there are gates of {len(plan.gates)} layers, but the model has {len(there)}"
            )
        ends = Mixture((1.0, *[0.0] * (num_sources - 1)))
        rows = [(layer, ends, gates) for layer, gates in enumerate(plan.gates)]
    else:
        plan.check(len(there), num_sources - 1)
        ends = _mixture(plan.ends, num_sources)
        rows = [(row.layer, _mixture(row, num_sources), (True, True)) for row in plan.layers]
    steps = []
    for layer, mixture, gates in rows:
        attn, mlp = (gate and exists for gate, exists in zip(gates, there[layer], strict=True))
        if attn or mlp:
            steps.append(Step(layer, mixture, attn, mlp))
    return ends, tuple(steps)


def _mixture(row: PlanRow, num_sources: int) -> Mixture:
    mix = row.combination().mix(num_sources)
    return Mixture(None, row) if mix is None else Mixture(tuple(mix.tolist()))
