"""Perplexity without a unit, and what of it is noise."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from jprune.evaluate.candidates import candidate_nll
from jprune.llama.model import Llama
from jprune.scores.result import Scores, rank
from jprune.scores.units import SUBLAYERS, Unit, is_present, present, units


def perplexity(
    llama: Llama,
    ids: Int[np.ndarray, "windows length"],
    *,
    granularity: str = "block",
    protect=(),
    batch_size: int | None = None,
) -> Scores:
    """exp(mean next-token NLL) of the model without each unit, on calibration windows.

    Ten windows of 128 tokens, the setting of the paper, leave many ranks inside the noise. The
    result therefore has the paired difference in NLL to the full model and its standard error over
    windows: units whose differences lie within it cannot be told apart on this data.

    Reference: Kim et al., Shortened LLaMA (arXiv 2402.02834), section 2.2.

    Args:
      llama: the model.
      ids: calibration windows.
      granularity: of the units.
      protect: layers out of reach.
      batch_size: windows per step; by default what suits the device.
    """
    found = units(llama, granularity)
    there = present(llama)
    removable = [position for position, unit in enumerate(found) if is_present(unit, there)]
    full = np.array(there)
    gates = np.stack([full] + [without(full, [found[position]]) for position in removable])
    nll = candidate_nll(llama, gates, ids, batch_size=batch_size).astype(np.float64)
    scores: list[float | None] = [None] * len(found)
    delta, error = scores.copy(), scores.copy()
    windows: list[tuple[float, ...] | None] = [None] * len(found)
    for position, row in zip(removable, nll[1:], strict=True):
        windows[position] = tuple(row.tolist())
        scores[position] = float(np.exp(row.mean()))
        delta[position], error[position] = paired_difference(row, nll[0])
    return Scores(
        criterion="perplexity",
        granularity=granularity,
        units=found,
        scores=tuple(scores),
        order=rank(found, scores, protect),
        protected=tuple(protect),
        delta_nll=tuple(delta),
        standard_error=tuple(error),
        window_nll=tuple(windows),
        settings={"full_nll": float(nll[0].mean()), "full_ppl": float(np.exp(nll[0].mean()))},
    )


def without(gates: Bool[np.ndarray, "layers 2"], removed: Sequence[Unit]) -> np.ndarray:
    """`gates` (attention and MLP per layer) with the sublayers of `removed` off."""
    gates = gates.copy()
    for unit in removed:
        gates[unit.layer, list(SUBLAYERS[unit.part])] = False
    return gates


def paired_difference(
    nll: Float[np.ndarray, " windows"], reference: Float[np.ndarray, " windows"]
) -> tuple[float, float | None]:
    """Mean of nll - reference over windows, and its standard error (None for a single window)."""
    difference = nll - reference
    if len(difference) < 2:
        return float(difference.mean()), None
    return float(difference.mean()), float(difference.std(ddof=1) / np.sqrt(len(difference)))
