"""The models of a search side by side: the base, variants, simpler ways to its size, the result.

Each is measured on the same report data, with NLL in nats per token. The mean over data sources is
that of the NLL, each source counting the same, and PPL is exp(NLL) also of it. What a model retains
is 100 * PPL(reference) / PPL = 100 * exp(NLL(reference) - NLL), in percent; the reference is the
unpruned variant that is best on that data source, or by the mean; without variants the base.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jprune.report.reading import Evaluation, RunRecord
from jprune.report.searches import DEPTH, MERGE, REMOVAL, Compared

MEAN = "mean"
BASE, RESULT = "before", "after"


@dataclass(frozen=True)
class Measured:
    """One model of a run.

    Attributes:
      key: what it is in any run: before, a variant's name, depth, removal, another comparison's
        phase, after.
      name: the same in words.
      detail: which model or method it was made with; empty where the name says all.
      removed: how many units are gone.
      is_variant: whether it is a variant as it came.
      nll: by data source.
      standard_error: of these over windows, where known.
    """

    key: str
    name: str
    detail: str
    removed: int
    is_variant: bool
    nll: Mapping[str, float]
    standard_error: Mapping[str, float]

    @property
    def label(self) -> str:
        """Name and detail, for example: best depth pruning (of code)."""
        return f"{self.name} ({self.detail})" if self.detail else self.name

    @property
    def mean(self) -> float:
        """The mean NLL over the data sources."""
        return sum(self.nll.values()) / len(self.nll)

    def on(self, column: str) -> float:
        """The NLL on a data source, or the mean."""
        return self.mean if column == MEAN else self.nll[column]

    @property
    def mean_error(self) -> float | None:
        """The standard error of the mean, whose sources are independent; None if one is unknown."""
        if len(self.standard_error) < len(self.nll):
            return None
        return math.hypot(*self.standard_error.values()) / len(self.nll)


def report_data(run: RunRecord) -> tuple[str, ...]:
    """The data sources that the result was evaluated on, in order."""
    found = (e.data for e in run.evaluations if e.phase == RESULT and _is_known(e))
    return tuple(dict.fromkeys(found))


def measured_models(run: RunRecord, data: Sequence[str]) -> tuple[Measured, ...]:
    """The models of a run that were measured on all of `data`, as the result was.

    The base, every variant, the best of the depth-pruned and of the searches that only remove (by
    the mean on these data, which favours them), every other comparison, the result.
    """
    search = run.search
    if search is None or not data:
        return ()
    result = "stitched model" if search.variants else "searched removal"
    rows = [
        (BASE, BASE, "base", search.base_name, 0),
        *((name, name, name, "", 0) for name in search.variants),
        *((one.kind, one.phase, *_words(one), len(one.removed)) for one in search.comparisons),
        (RESULT, RESULT, result, _searched_by(run), len(search.removed)),
    ]
    wanted = _protocols(run, RESULT, data)
    models: dict[Any, Measured] = {}
    for position, (key, phase, name, detail, removed) in enumerate(rows):
        if _protocols(run, phase, data) != wanted:
            continue
        is_variant = 0 < position <= len(search.variants)
        found = {e.data: e for e in run.evaluations if e.phase == phase}
        model = Measured(
            key=key,
            name=name,
            detail=detail,
            removed=removed,
            is_variant=is_variant,
            nll={d: _nll(found[d]) for d in data},
            standard_error={d: e for d in data if (e := found[d].standard_error) is not None},
        )
        best = models.get((key, is_variant))
        if best is None or model.mean < best.mean:
            models[key, is_variant] = model
    return tuple(models.values())


def reference_of(models: Sequence[Measured], column: str = MEAN) -> Measured | None:
    """What 100% is: the variant with the lowest NLL there, without variants the base."""
    variants = [model for model in models if model.is_variant]
    if variants:
        return min(variants, key=lambda model: model.on(column))
    return next((model for model in models if model.key == BASE), None)


def retained(reference: float, nll: float) -> float:
    """100 * PPL(reference) / PPL in percent, of two NLL."""
    return 100 * perplexity(reference - nll)


def perplexity(nll: float) -> float:
    """exp(nll); infinite where that has no float."""
    try:
        return math.exp(nll)
    except OverflowError:
        return math.inf


def _protocols(run: RunRecord, phase: str, data: Sequence[str]) -> dict[str, Any] | None:
    """How a model was measured on each of `data`; None unless there is an NLL on all of them."""
    found = {e.data: e.protocol for e in run.evaluations if e.phase == phase and _is_known(e)}
    return {d: found[d] for d in data} if all(d in found for d in data) else None


def _is_known(evaluation: Evaluation) -> bool:
    return evaluation.nll is not None or bool(evaluation.ppl)


def _nll(evaluation: Evaluation) -> float:
    return math.log(evaluation.ppl or 1.0) if evaluation.nll is None else evaluation.nll


def _words(one: Compared) -> tuple[str, str]:
    """What a comparison is called, and what it was made with."""
    known = {DEPTH: "best depth pruning", REMOVAL: "best removal search"}
    if one.kind in known:
        return known[one.kind], f"of {one.model}"
    if one.kind == MERGE:
        return "depth pruning of the best merge", one.merge or ""
    return one.phase.replace("-", " ").replace("_", " "), one.merge or ""


def _searched_by(run: RunRecord) -> str:
    sampler = run.setting("sampler")
    return f"by {sampler}" if sampler else ""
