"""Criteria by name, and the user's own."""

import inspect
from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Int

from jprune.core.errors import InputError, unknown
from jprune.core.plugins import find_function
from jprune.data import check_vocabulary
from jprune.llama.model import Llama
from jprune.scores.baselines import last, random
from jprune.scores.greedy import greedy
from jprune.scores.magnitude import magnitude
from jprune.scores.perplexity import perplexity
from jprune.scores.result import Scores, rank
from jprune.scores.similarity import angular, influence
from jprune.scores.taylor import taylor
from jprune.scores.units import parse_layers, units

CRITERIA = MappingProxyType(
    {
        function.__name__: function
        for function in (
            magnitude,
            taylor,
            perplexity,
            influence,
            angular,
            greedy,
            random,
            last,
        )
    }
)
# Criteria that read no data.
DATA_FREE = ("magnitude", "random", "last")


def score(
    llama: Llama,
    criterion: str,
    ids: Int[np.ndarray, "windows length"] | None = None,
    *,
    granularity: str = "block",
    protect: str | Sequence[int] = (),
    **options,
) -> Scores:
    """Scores of every unit of `llama` under a criterion; lower is removed first.

    Args:
      llama: the model.
      criterion: a name of `CRITERIA`, or 'module:function'. Such a function is called with
        (llama, ids, granularity, **options) and returns one number or None per unit of
        `jprune.scores.units(llama, granularity)`.
      ids: calibration windows; magnitude and the baselines do without.
      granularity: 'block', 'attention', 'mlp', or 'sublayer' (both, ranked together).
      protect: layers out of reach, as indices or a text such as '0-3,-2,-1'.
      **options: of the criterion; see `options_of`.

    Raises:
      InputError: unknown criterion, granularity or option; no windows where they are needed.
    """
    function = find(criterion)
    accepted = options_of(criterion)
    for option in options:
        if accepted is not None and option not in accepted:
            raise unknown(f"option of {criterion}", option, accepted)
    if ids is None and criterion not in DATA_FREE and ":" not in criterion:
        raise InputError(f"the criterion {criterion} needs calibration windows")
    if ids is not None:
        if len(ids) == 0 or ids.shape[1] < 2:
            raise InputError(
                f"{len(ids)} windows of {ids.shape[1]} tokens predict nothing; "
                "use at least 1 window of at least 2"
            )
        check_vocabulary(ids, llama.embed.shape[0], "the calibration windows")
    layers = parse_layers(protect, llama.num_layers)
    found = units(llama, granularity)
    if criterion in CRITERIA:
        return function(llama, ids, granularity=granularity, protect=layers, **options)
    given = function(llama, ids, granularity, **options)
    try:
        values = tuple(None if value is None else float(value) for value in given)
    except (TypeError, ValueError):
        raise InputError(
            f"{criterion} should give a number or None per unit, not {given!r:.60}"
        ) from None
    if len(values) != len(found):
        raise InputError(f"{criterion} gave {len(values)} scores for {len(found)} units")
    return Scores(
        criterion=criterion,
        granularity=granularity,
        units=found,
        scores=values,
        order=rank(found, values, layers),
        protected=layers,
        settings=dict(options),
    )


def find(criterion: str) -> Callable[..., Any]:
    """The function of a criterion's name or of 'module:function'.

    Raises:
      InputError: there is none.
    """
    if criterion in CRITERIA:
        return CRITERIA[criterion]
    if ":" not in criterion:
        raise unknown("criterion", criterion, CRITERIA)
    return find_function(criterion, "criterion")


def options_of(criterion: str) -> tuple[str, ...] | None:
    """The options a criterion takes beyond granularity and protect; None for one of the user's."""
    if criterion not in CRITERIA:
        find(criterion)
        return None
    parameters = inspect.signature(CRITERIA[criterion]).parameters
    common = ("llama", "ids", "granularity", "protect")
    return tuple(name for name in parameters if name not in common)
