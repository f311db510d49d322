"""Settings of a search."""

import dataclasses
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from jprune.core.errors import InputError, unknown

SAMPLERS = ("tpe", "nsga2", "random", "evolution", "greedy")


@dataclasses.dataclass(frozen=True)
class SearchSettings:
    """How a search goes.

    Attributes:
      sampler: what proposes candidates: tpe, nsga2, random, evolution or greedy.
      trials: how many candidates in all, over all workers.
      rungs: fractions of the items, ascending to 1; texts such as "1/8" are taken. (1,) evaluates
        everything on all.
      eta: one in so many goes on from a rung to the next.
      seed: of what is drawn; also of the rungs' items.
      population: of nsga2; of evolution the number of offspring in a generation.
      startup: of tpe: trials that are drawn at random first; warm starts count.
      stale_after: seconds without a sign of life after which a worker on another machine counts as
        dead.
      give_up_after: if so many trials fail before any succeeds, the search ends with the error.
    """

    sampler: str = "tpe"
    trials: int = 200
    rungs: Sequence[Any] = (0.125, 0.5, 1.0)
    eta: float | int = 2.0
    seed: int = 0
    population: int = 16
    startup: int = 10
    stale_after: float | int = 60.0
    give_up_after: int = 3

    def __post_init__(self) -> None:
        _check(vars(self))
        object.__setattr__(self, "rungs", _fractions(self.rungs))

    def to_json(self) -> dict[str, Any]:
        """All settings."""
        return dataclasses.asdict(self) | {"rungs": list(self.rungs)}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> "SearchSettings":
        """Settings from those that are given.

        Raises:
          InputError: a setting that there is not, or a value that it cannot have.
        """
        known = [field.name for field in dataclasses.fields(SearchSettings)]
        for name in data:
            if name not in known:
                raise unknown("setting of a search", name, known)
        _check(data)
        return SearchSettings(**data)


# The least that they take.
_WHOLE = {"trials": 1, "seed": 0, "population": 2, "startup": 0, "give_up_after": 1}
_NUMBERS = {"eta": 1, "stale_after": 1}


def _check(values: Mapping[str, Any]) -> None:
    if "sampler" in values and values["sampler"] not in SAMPLERS:
        raise unknown("sampler", values["sampler"], SAMPLERS)
    for name, value in values.items():
        least = _WHOLE.get(name)
        if least is not None and (type(value) is not int or value < least):
            raise InputError(f"{name} of a search is a whole number from {least} on, not {value!r}")
        least = _NUMBERS.get(name)
        if least is not None and (type(value) not in (int, float) or not value >= least):
            raise InputError(f"{name} of a search is a number from {least} on, not {value!r}")
    if "rungs" in values:
        _fractions(values["rungs"])


def _fractions(rungs: Any) -> tuple[float, ...]:
    items = rungs if isinstance(rungs, list | tuple) else [rungs]
    try:
        found = tuple(float(Fraction(item)) for item in items)
    except (TypeError, ValueError, ZeroDivisionError):
        raise InputError(f"rungs are fractions such as 1/8, 1/2, 1, not {rungs!r}") from None
    ascending = all(low < high for low, high in zip((0.0, *found), found, strict=False))
    if not found or found[-1] != 1 or not ascending:
        raise InputError(
            f"rungs are fractions above 0 that rise to 1, such as 1/8, 1/2, 1; not {list(items)}"
        )
    return found
