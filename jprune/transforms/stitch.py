"""Stitching: models whose layers come from several, some left out, some merged.

Reference: GPTailor (arXiv 2506.20480), section 3.
"""

from collections.abc import Callable, Sequence
from typing import Any

from jprune.core.errors import InputError
from jprune.llama.model import Llama
from jprune.transforms.combine import combine
from jprune.transforms.mergeable import check_mergeable, model_names, same_vocabulary
from jprune.transforms.stitch_plan import StitchPlan
from jprune.transforms.transform import Sources, find_source, transform


@transform
def stitch(
    plan: Any,
    models: Any = None,
    *,
    vocab: str = "same",
    sources: Sources | None = None,
) -> Callable[[Llama], Llama]:
    """Stitches a model together from the one at this step, the base, and variants of it.

    >>> stitch([{"layer": 0}, {"layer": 2, "variants": [0, 1], "factor": 0.5}],
    ...        sources={1: math, 2: code})(base)

    Args:
      plan: a `StitchPlan`, or its JSON.
      models: the variants of the plan as indices into the sources of the recipe; by default they
        are the sources from 1 on.
      vocab: see `merge_models`.
      sources: the further models by index, or a function that loads them; no part of the recipe.

    Raises:
      InputError: see `StitchPlan` and `stitch_models`; a source that is not there.
    """
    made = StitchPlan.from_json(plan)
    indices = list(range(1, 1 + made.num_variants)) if models is None else list(models)
    wrong = [index for index in indices if type(index) is not int or index < 1]
    if wrong:
        raise InputError(f"models of a stitch are indices of sources, 1 and up, not {wrong[0]!r}")

    def apply(llama: Llama) -> Llama:
        variants = [find_source(sources, index, "stitch") for index in indices]
        return stitch_models(made, llama, variants, vocab=vocab)

    return apply


def stitch_models(
    plan: StitchPlan,
    base: Llama,
    variants: Sequence[Llama],
    *,
    names: Sequence[str] | None = None,
    vocab: str = "same",
) -> Llama:
    """The model of a plan; every layer has the origin of the base's layer that it is made from.

    A tensor is computed by the coefficients of `jprune.transforms.stitch_plan.coefficients` where
    the method has such, else by the method; adapters are folded first.

    Args:
      plan: what each layer is made of.
      base: the model that the variants were finetuned from; config, form, dtypes and placement of
        the result are its.
      variants: in the order of the plan.
      names: of the base and the variants, for messages.
      vocab: see `merge_models`.

    Raises:
      InputError: models that differ, or that the plan does not fit.
    """
    plan.check(base.num_layers, len(variants))
    sources = [base, *variants]
    check_mergeable(names or model_names(sources), sources, vocab)
    if vocab == "intersect":
        sources = same_vocabulary(sources)
    layers = [(row.layer, row.combination()) for row in plan.layers]
    return combine(sources, layers, plan.ends.combination())
