"""Merging as a step of a recipe, and merges that are refused."""

import jax
import numpy as np
import pytest

from jprune.core.errors import InputError
from jprune.transforms import chain, drop_blocks, from_step, merge, merge_models
from tests.llama.test_stack import same
from tests.transforms.merging import (
    BASE,
    CODE,
    MATH,
    VARIANTS,
    merged,
    places,
)


def test_the_transform_is_the_function():
    sources = dict(enumerate(VARIANTS, 1))
    step = merge("ties", [1, 2, 3], density=0.3, sources=sources)
    assert step.steps == (
        {"op": "merge", "args": {"method": "ties", "models": [1, 2, 3], "density": 0.3}},
    )
    same(step(BASE), merged("ties"))
    found = from_step(step.steps[0], sources=sources.__getitem__)(BASE)
    same(found, merged("ties"))
    # 0 is the model at this step, which is then no base.
    both = merge("linear", (np.int64(2), 0), sources=sources, weights=np.array([1.0, 3.0]))
    assert both.steps[0]["args"]["models"] == [2, 0]
    same(both(BASE), merge_models([CODE, BASE], "linear", weights=[1, 3]))
    rows = [{"layers": np.array([1]), "factor": np.float64(0.5)}]
    ranged = merge("task_arithmetic", [1], layers=rows, sources=sources)
    assert ranged.steps[0]["args"]["layers"] == [{"layers": [1], "factor": 0.5}]
    assert places(ranged(BASE), BASE) == {1}


def test_models_at_later_steps():
    cut = drop_blocks([0])
    sources = {index: cut(model) for index, model in enumerate(VARIANTS, 1)}
    step = merge("linear", [1, 2], sources=sources)
    found = chain(cut, step)(BASE)
    same(found, step(cut(BASE)))
    assert [origin.index for origin in found.origins] == [1, 2, 3]
    assert jax.eval_shape(chain(cut, step), BASE).num_layers == 3


ERRORS = [
    (dict(method="tise"), "unknown method 'tise'; did you mean 'ties'"),
    (dict(method="no_such:f"), "cannot import the method 'no_such:f'"),
    (dict(method="ties"), "ties needs density: the share of each task vector that is kept"),
    (dict(method="ties", density=0), r"density of ties is 0; it is the share .* in \(0, 1\]"),
    (dict(method="ties", density=1.5), "density of ties is 1.5"),
    (dict(method="ties", density=True), "density of ties is True"),
    (dict(method="ties", densty=1), "unknown option of ties 'densty'; did you mean 'density'"),
    (dict(method="ties", density=1, factor=np.inf), "factor of ties is inf; it is a number that"),
    (dict(method="ties", base=None, density=1), "ties needs a base: the model that"),
    (dict(method="model_stock", k=1), "model_stock has no options; leave out k"),
    (dict(method="slerp"), "slerp merges exactly 2 models, not 3"),
    (dict(method="passthrough"), "passthrough merges exactly 1 model, not 3"),
    (dict(method="model_stock", models=VARIANTS[:1]), "model_stock merges at least 2 models, not"),
    (dict(method="slerp", models=VARIANTS[:2], t=1.1), r"t of slerp is 1.1; it is in \[0, 1\]"),
    (dict(method="linear", weights=[1, 2]), "weights of linear are 2 numbers for 3 models"),
    (dict(method="linear", weights=[1, -2, 1]), "weights of linear add up to 0"),
    (dict(method="linear", weights=[0, 0, 0]), "weights of linear is .*not all 0"),
    (dict(method="linear", weights=["a", 1, 1]), "weights of linear is .* a number for each model"),
    (dict(method="dare", density=1, then="tis"), "then of dare is 'tis'; it is one of task_ari"),
    (dict(method="dare", density=1, seed=-1), "seed of dare is -1; it is an integer from 0"),
    (dict(method="breadcrumbs", density=0.5, gamma=1), r"gamma of breadcrumbs is 1; .* \[0, 1\)"),
    (dict(method="breadcrumbs", density=0.95, gamma=0.1), "their sum is at most 1"),
    (dict(method="passthrough", models=VARIANTS[:1], scale="2"), "scale of passthrough is '2'"),
    (dict(method=None), "there is no method: give one, or one in each range"),
    (dict(method=None, layers=[{"layers": 0}]), "there is no method"),
    (dict(method="linear", models=[]), "there is no model to merge"),
    (dict(method="linear", ends="none"), "unknown value of ends 'none'"),
    (dict(method="linear", layers="4"), "layer 4 is outside this model"),
    (dict(method="linear", layers=[{"method": "ties"}]), "a range of layers is .*, not {'method'"),
    (dict(method="linear", layers=[{"layers": 1}, 2]), "a range of layers is .*, not 2"),
    (
        dict(method="linear", layers=[{"layers": "0-2"}, {"layers": "2-3"}]),
        "layer 2 is in two ranges",
    ),
    (
        dict(method="task_arithmetic", factor=[1, 2], ends="base"),
        "factor of task_arithmetic has 2 values for 4 layers",
    ),
    (
        dict(method="task_arithmetic", factor=[1, 2, 3, 4]),
        "has a value for each layer, which says nothing of embeddings.*give ends='base'",
    ),
]


@pytest.mark.parametrize(("arguments", "message"), ERRORS)
def test_wrong_merges(arguments, message):
    arguments = {"models": VARIANTS, "base": BASE} | arguments
    with pytest.raises(InputError, match=message):
        merge_models(**arguments)


def test_wrong_sources():
    for models, word in (([-1], "-1"), (["a"], "'a'"), ([], "none")):
        with pytest.raises(InputError, match=f"indices of sources, 0 and up, not {word}"):
            merge("linear", models)
    with pytest.raises(InputError, match="merge needs source 2 of the recipe, which is not there"):
        merge("linear", [1, 2], sources={1: MATH})(BASE)
    with pytest.raises(InputError, match="merge needs source 1 of the recipe"):
        merge("linear", [1])(BASE)
