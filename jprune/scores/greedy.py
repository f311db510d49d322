"""Greedy removal: the cheapest unit goes, the rest is scored again."""

import numpy as np
from jaxtyping import Int

from jprune.core.errors import InputError
from jprune.core.progress import progress
from jprune.evaluate.candidates import candidate_nll
from jprune.llama.model import Llama
from jprune.scores.perplexity import paired_difference, without
from jprune.scores.result import Scores
from jprune.scores.units import is_present, present, units


def greedy(
    llama: Llama,
    ids: Int[np.ndarray, "windows length"],
    *,
    granularity: str = "block",
    protect=(),
    remove: int | None = None,
    batch_size: int | None = None,
) -> Scores:
    """Removes `remove` units one by one, each time the one whose removal raises the NLL least.

    The score of a unit is the perplexity after its removal, in the round in which it went; units
    that stay have none. `delta_nll` is the difference to the model of the round before.

    Reference: Song et al., SLEB (arXiv 2402.09025), section 4.

    Args:
      llama: the model.
      ids: calibration windows.
      granularity: of the units.
      protect: layers out of reach.
      remove: how many units; by default all but one of those that may go.
      batch_size: windows per step; by default what suits the device.

    Raises:
      InputError: fewer than `remove` units may go.
    """
    found = units(llama, granularity)
    there = present(llama)
    removable = [position for position, unit in enumerate(found) if is_present(unit, there)]
    left = [position for position in removable if found[position].layer not in protect]
    # Without protected units, the last one is what remains of the model.
    available = len(left) - (len(left) == len(removable))
    rounds = available if remove is None else remove
    if not 0 <= rounds <= available:
        raise InputError(f"cannot remove {rounds} units greedily: only {available} can go")
    gates = np.array(there)
    scores: list[float | None] = [None] * len(found)
    delta, error = scores.copy(), scores.copy()
    path = []
    for _ in progress(range(rounds), "greedy removal", unit="unit"):
        candidates = np.stack([gates] + [without(gates, [found[p]]) for p in left])
        nll = candidate_nll(llama, candidates, ids, batch_size=batch_size).astype(np.float64)
        means = nll[1:].mean(axis=1)
        if np.isnan(means).any():
            raise InputError("the NLL is not a number on this data; try --dtype=float32")
        best = int(np.argmin(means))
        position = left.pop(best)
        gates = without(gates, [found[position]])
        scores[position] = float(np.exp(means[best]))
        delta[position], error[position] = paired_difference(nll[1 + best], nll[0])
        step = {"ppl": scores[position], "nll": float(means[best]), "delta_nll": delta[position]}
        path.append(found[position].to_json() | {"position": position} | step)
    return Scores(
        criterion="greedy",
        granularity=granularity,
        units=found,
        scores=tuple(scores),
        order=tuple(entry["position"] for entry in path),
        protected=tuple(protect),
        delta_nll=tuple(delta),
        standard_error=tuple(error),
        path=tuple(path),
    )
