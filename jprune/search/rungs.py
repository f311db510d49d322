"""Rungs of fidelity: on how much of the data a candidate is evaluated before more is spent on it.

Reference: Li et al., A System for Massively Parallel Hyperparameter Tuning (arXiv 1810.05934),
algorithm 2: asynchronous successive halving.
"""

import dataclasses
import math
import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from jprune.search.objectives import Objective


@dataclasses.dataclass(frozen=True)
class Rungs:
    """Nested, shuffled subsets of the items of every objective; the last rung has all.

    Attributes:
      orders: of every objective, its items shuffled.
      sizes: of every rung, how many of the first of these each objective has.
    """

    orders: tuple[tuple[int, ...], ...]
    sizes: tuple[tuple[int, ...], ...]

    @staticmethod
    def of(objectives: Sequence[Objective], fractions: Sequence[float | int], seed: int) -> "Rungs":
        """Rungs with at least these fractions of the items, rounded up.

        Rungs that would have the same items as the one before are left out.

        Args:
          objectives: what has items.
          fractions: ascending, the last 1.
          seed: of the shuffling, which does not depend on other objectives.
        """
        orders = []
        for objective in objectives:
            rng = np.random.default_rng([seed, zlib.crc32(objective.name.encode())])
            orders.append(tuple(rng.permutation(objective.num_items).tolist()))
        sizes = [tuple(math.ceil(f * len(order) - 1e-9) for order in orders) for f in fractions]
        return Rungs(tuple(orders), tuple(dict.fromkeys(sizes)))

    def __len__(self) -> int:
        return len(self.sizes)

    def items(self, rung: int) -> list[Int[np.ndarray, " _"]]:
        """All items of a rung for every objective, ascending."""
        rows = zip(self.orders, self.sizes[rung], strict=True)
        return [np.sort(np.asarray(order[:size], int)) for order, size in rows]

    def new_items(self, rung: int) -> list[Int[np.ndarray, " _"]]:
        """The items of a rung that the one before does not have, ascending."""
        before = self.sizes[rung - 1] if rung else (0,) * len(self.orders)
        rows = zip(self.orders, before, self.sizes[rung], strict=True)
        return [np.sort(np.asarray(order[low:high], int)) for order, low, high in rows]


def goes_on(score: float, earlier: Sequence[float], eta: float | int) -> bool:
    """Whether a candidate at a rung is in the better 1/eta of it and those there before it.

    At least one always is: the first goes on, and until there are eta, whoever is the best so far.
    Of equal ones the earlier is the better.

    Args:
      score: of the candidate, lower is better.
      earlier: scores at the same rung.
      eta: 1 lets all go on.
    """
    places = max(1, math.floor((len(earlier) + 1) / eta))
    return sum(other <= score for other in earlier) < places
