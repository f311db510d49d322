"""Objectives of a search: named data, how good a candidate is on them, and how good the base."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from jprune.core.errors import InputError


@dataclasses.dataclass(frozen=True)
class Objective:
    """Something that candidates should be good at.

    Attributes:
      name: of the data.
      num_items: windows or questions; each has one number under a candidate.
      maximize: the numbers are a metric such as accuracy, of which more is better; otherwise they
        are NLL.
    """

    name: str
    num_items: int
    maximize: bool = False

    def __post_init__(self) -> None:
        if not self.name:
            raise InputError("an objective needs a name")
        if self.num_items < 1:
            raise InputError(f"the objective {self.name} has no items; it needs at least one")

    def ratio(self, value: float, base: float, count: int | None = None) -> float:
        """How much worse than the base, as a factor: value / base, of a metric base / value.

        A metric counts as half an item at least, so that nothing is divided by zero.

        Args:
          value: the mean of a candidate.
          base: the mean of the base on the same items.
          count: how many items; by default all.
        """
        if not self.maximize:
            return value / base
        least = 0.5 / (count or self.num_items)
        return max(base, least) / max(value, least)


@dataclasses.dataclass(frozen=True)
class Sums:
    """What is known of a candidate: for every objective, the sum over the items so far.

    Attributes:
      sums: one per objective.
      counts: how many items each.
    """

    sums: tuple[float, ...]
    counts: tuple[int, ...]

    @staticmethod
    def none(objectives: Sequence[Objective]) -> "Sums":
        """Before anything is evaluated."""
        return Sums((0.0,) * len(objectives), (0,) * len(objectives))

    def add(self, new: Sequence[Float[np.ndarray, " _"]]) -> "Sums":
        """With further items of every objective."""
        sums = zip(self.sums, new, strict=True)
        counts = zip(self.counts, new, strict=True)
        return Sums(
            tuple(old + float(np.sum(values, dtype=np.float64)) for old, values in sums),
            tuple(old + len(values) for old, values in counts),
        )

    @property
    def means(self) -> tuple[float, ...]:
        """The value of each objective: the mean over the items so far."""
        return tuple(s / count for s, count in zip(self.sums, self.counts, strict=True))


def ratios(
    objectives: Sequence[Objective],
    values: Sequence[float],
    base: Sequence[float],
    counts: Sequence[int] | None = None,
) -> tuple[float, ...]:
    """`Objective.ratio` of each."""
    counts = counts or [objective.num_items for objective in objectives]
    rows = zip(objectives, values, base, counts, strict=True)
    return tuple(objective.ratio(value, own, count) for objective, value, own, count in rows)


def score(ratios: Sequence[float]) -> float:
    """What ranks candidates: the mean ratio to the base over the objectives; lower is better."""
    return sum(ratios) / len(ratios)


def check_objectives(objectives: Sequence[Objective]) -> None:
    """Raises InputError unless there is an objective, and no two have the same name."""
    names = [objective.name for objective in objectives]
    if not names:
        raise InputError("a search needs at least one objective")
    if len(set(names)) < len(names):
        raise InputError(f"objectives {', '.join(names)} name one twice")


def check_values(objective: Objective, values: Any, count: int) -> Float[np.ndarray, " items"]:
    """What an evaluation gave, in float64.

    Raises:
      InputError: not one number per item, or numbers that are not finite.
    """
    values = np.asarray(values, np.float64)
    if values.shape != (count,):
        raise InputError(
            f"evaluating {count} items of {objective.name} gave an array of shape "
            f"{list(values.shape)}, not one number per item"
        )
    wrong = np.count_nonzero(~np.isfinite(values))
    if wrong:
        raise InputError(f"{wrong} of {count} items of {objective.name} are not finite")
    return values


def check_base(objectives: Sequence[Objective], base: Sequence[float]) -> None:
    """Raises InputError if a base's NLL is not above 0: there would be no ratio to it."""
    for objective, value in zip(objectives, base, strict=True):
        if not objective.maximize and value <= 0:
            raise InputError(
                f"the base has an NLL of {value:g} on {objective.name}; it must be above 0"
            )
