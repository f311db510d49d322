"""Perplexity against the number of removed units, of several criteria, on one program.

Every point is a virtual model: the same compiled program evaluates them all, and a removal that
several criteria agree on is evaluated once.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jprune.evaluate.candidates import candidate_nll
from jprune.llama.model import Llama
from jprune.scores import Scores, Unit, present, select
from jprune.scores.perplexity import without

Removal = tuple[Unit, ...]


def removals(scores: Scores, most: int) -> list[Removal]:
    """What a criterion removes at 0, 1, ..., `most` units, as far as it can."""
    removable = len(scores.order) - (len(scores.order) == len(scores.units))
    return [select(scores, count) for count in range(min(most, removable) + 1)]


def contiguous_removals(rescore: Callable[[int], Scores], most: int) -> list[Removal]:
    """The same for a criterion that scores runs of blocks: `rescore(n)` is the one for n blocks."""
    return [(), *(select(rescore(count), count) for count in range(1, most + 1))]


def longest_run(num_layers: int, protected: Sequence[int]) -> int:
    """The most contiguous layers that may go, at least one of the model's being left."""
    longest = length = 0
    for layer in range(num_layers):
        length = 0 if layer in protected else length + 1
        longest = max(longest, length)
    return min(longest, num_layers - 1)


def perplexities(
    llama: Llama, ids: Int[np.ndarray, "windows length"], wanted: Sequence[Removal]
) -> dict[Removal, float]:
    """The perplexity on `ids` without each of several sets of units."""
    distinct = sorted({removal for removal in wanted})
    full = np.array(present(llama))
    gates = np.stack([without(full, removal) for removal in distinct])
    nll = candidate_nll(llama, gates, ids).astype(np.float64).mean(axis=1)
    with np.errstate(over="ignore"):
        return dict(zip(distinct, np.exp(nll).tolist(), strict=True))


def series(name: str, path: Sequence[Removal], ppl: Mapping[Removal, float]) -> dict[str, Any]:
    """One line of the curve."""
    return {
        "criterion": name,
        "removed": list(range(len(path))),
        "ppl": [ppl[removal] for removal in path],
    }


def random_series(
    paths: Mapping[int, Sequence[Removal]], ppl: Mapping[Removal, float]
) -> dict[str, Any]:
    """The line of random removal: at each count the mean, least and greatest over seeds."""
    length = min(len(path) for path in paths.values())
    table: Float[np.ndarray, "seeds counts"] = np.asarray(
        [[ppl[removal] for removal in path[:length]] for path in paths.values()]
    )
    return {
        "criterion": "random",
        "removed": list(range(length)),
        "ppl": table.mean(axis=0).tolist(),
        "ppl_min": table.min(axis=0).tolist(),
        "ppl_max": table.max(axis=0).tolist(),
        "seeds": list(paths),
    }
