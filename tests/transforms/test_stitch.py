"""Stitched models: each layer from its source, and the same by coefficients over stacks."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jprune.core.errors import InputError
from jprune.llama import Run, mix_tensors, named_params, stack, unstack
from jprune.transforms import (
    Recipe,
    StitchLayer,
    StitchPlan,
    chain,
    coefficients,
    drop_blocks,
    from_step,
    merge_models,
    removed_units,
    stitch,
    stitch_models,
)
from tests.llama.test_stack import same
from tests.tiny import finetunes, tiny

BASE = tiny(5)
MATH, CODE, CHAT = VARIANTS = finetunes(BASE, "math", "code", "chat")
NAMES = ("math", "code", "chat")
ROWS = [
    {"layer": 0, "variants": [], "factor": 0},
    {"layer": 1, "variants": ["chat"], "factor": 1},
    {"layer": 3, "variants": ["code", "math"], "factor": 0.6},
    {"layer": 4, "variants": ["math", "code", "chat"], "factor": 0.3},
]
PLAN = StitchPlan.from_json(ROWS, names=NAMES)


def block(llama, layer):
    return unstack(llama).blocks[layer].replace(origin=None)


def test_every_layer_is_from_its_source():
    found = stitch_models(PLAN, BASE, VARIANTS)
    expected = [
        block(BASE, 0),
        block(CHAT, 1),
        block(merge_models([MATH, CODE], "task_arithmetic", base=BASE, factor=0.6), 3),
        block(merge_models(VARIANTS, "task_arithmetic", base=BASE, factor=0.3), 4),
    ]
    for layer, own in enumerate(expected):
        same(block(found, layer), own)
    for name in ("embed", "final_norm", "lm_head"):
        same(getattr(found, name), getattr(BASE, name))
    assert found.origins == tuple(BASE.origins[i] for i in (0, 1, 3, 4))
    assert removed_units(BASE, found) == ((2, "block"),)
    # What is taken as it is is not copied.
    assert found.blocks[0].attn.q.kernel is BASE.blocks[0].attn.q.kernel
    assert found.blocks[1].attn.q.kernel is CHAT.blocks[1].attn.q.kernel


def test_several_by_hand():
    found = named_params(stitch_models(PLAN, BASE, VARIANTS))
    models = [named_params(model) for model in (BASE, MATH, CODE, CHAT)]
    for tensor in ("self_attn.v_proj.kernel", "post_attention_layernorm.weight"):
        t0, t1, t2, _ = (np.asarray(m[f"layers.3.{tensor}"], np.float64) for m in models)
        expected = t0 + 0.6 * (t1 - t0 + t2 - t0)
        np.testing.assert_allclose(found[f"layers.2.{tensor}"], expected, atol=1e-6)


def test_all_forms_give_the_same():
    expected = stitch_models(PLAN, BASE, VARIANTS)
    found = stitch_models(PLAN, stack(BASE), [MATH, stack(CODE), CHAT])
    assert isinstance(found.blocks[0], Run) and len(found.blocks[0]) == 4
    same(unstack(found), expected)


def test_under_jit_and_on_shapes():
    function = functools.partial(stitch_models, PLAN)
    found = function(BASE, VARIANTS)
    shapes = jax.eval_shape(function, BASE, VARIANTS)
    assert jax.tree.structure(shapes) == jax.tree.structure(found)
    close = functools.partial(np.testing.assert_allclose, atol=1e-6, rtol=0)
    jax.tree.map(close, jax.jit(function)(BASE, VARIANTS), found)


def test_other_methods_layers_in_any_order_and_ends():
    rows = [
        {"layer": 2, "variants": [0, 1], "method": "slerp", "t": 0.3},
        {"layer": 2, "variants": [2], "method": "ties", "density": 0.5, "factor": 0.7},
        {"layer": 0, "variants": [1], "method": "passthrough", "scale": 0.5},
        {"layer": 1, "variants": [0, 2], "method": "linear", "weights": [3, 1]},
    ]
    plan = StitchPlan.from_json({"layers": rows, "ends": {"variants": [0, 2], "factor": 0.2}})
    found = stitch_models(plan, BASE, VARIANTS)
    same(block(found, 0), block(merge_models([MATH, CODE], "slerp", t=0.3), 2))
    ties = merge_models([CHAT], "ties", base=BASE, density=0.5, factor=0.7)
    same(block(found, 1), block(ties, 2))
    same(block(found, 2), block(merge_models([CODE], "passthrough", scale=0.5), 0))
    same(block(found, 3), block(merge_models([MATH, CHAT], "linear", weights=[3, 1]), 1))
    whole = merge_models([MATH, CHAT], "task_arithmetic", base=BASE, factor=0.2)
    same(found.embed, whole.embed)
    same(found.lm_head, whole.lm_head)
    assert [origin.index for origin in found.origins] == [2, 2, 0, 1]
    variant = StitchPlan((StitchLayer(0),), ends=StitchLayer(None, (1,)))
    assert stitch_models(variant, BASE, VARIANTS).embed is CODE.embed


def random_plan(rng, remove=2, variants=3):
    kept = sorted(rng.choice(5, 5 - remove, replace=False).tolist())
    rows = []
    for layer in kept:
        chosen = [i for i in range(variants) if rng.random() < 0.5]
        row = {"layer": layer, "variants": chosen, "factor": round(rng.random(), 3)}
        if chosen and rng.random() < 0.3:
            row = {"layer": layer, "variants": chosen, "method": "linear"}
            row["weights"] = rng.integers(1, 5, len(chosen)).tolist()
        elif len(chosen) == 1 and rng.random() < 0.3:
            row["method"] = "task_arithmetic"
        rows.append(row)
    plan = StitchPlan.from_json(rows)
    plan.check(5, variants, remove=remove)
    return plan


@jax.jit
def by_coefficients(found, runs):
    """As a virtual model does: a scan over the steps, the mix of the stacks' layers in each."""

    def step(carry, row):
        layer, mix = row

        def mixed(*leaves):
            return mix_tensors(
                mix, [jax.lax.dynamic_index_in_dim(x, layer, keepdims=False) for x in leaves]
            )

        return carry, jax.tree.map(mixed, *runs)

    return jax.lax.scan(step, 0, (found.source_layer, found.mix))[1]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_coefficients_give_the_same_bits(dtype):
    rng = np.random.default_rng(0)
    models = [jax.tree.map(lambda x: x.astype(dtype), m) for m in (BASE, *VARIANTS)]
    runs = [stack(model).blocks[0].block for model in models]
    for _ in range(12):
        plan = random_plan(rng)
        found = coefficients(plan, 3)
        assert found.source_layer.dtype == np.int32 and found.mix.shape == (3, 4)
        expected = stack(stitch_models(plan, models[0], models[1:])).blocks[0].block
        same(by_coefficients(found, runs), expected)


def test_coefficients_by_hand():
    found = coefficients(PLAN)
    assert found.source_layer.tolist() == [0, 1, 3, 4]
    expected = [[1, 0, 0, 0], [0, 0, 0, 1], [-0.2, 0.6, 0.6, 0], [0.1, 0.3, 0.3, 0.3]]
    np.testing.assert_allclose(found.mix, np.float32(expected), atol=1e-7)
    np.testing.assert_array_equal(found.ends, [1, 0, 0, 0])
    assert coefficients(PLAN, 5).mix.shape == (4, 6)
    rows = [
        {"layer": 2, "variants": [1], "method": "passthrough", "scale": 0.5},
        {"layer": 2, "variants": [0], "method": "task_arithmetic", "factor": 0.25},
    ]
    found = coefficients(StitchPlan.from_json({"layers": rows, "ends": {"variants": [1]}}))
    np.testing.assert_array_equal(found.mix, [[0, 0, 0.5], [0.75, 0.25, 0]])
    np.testing.assert_array_equal(found.ends, [0, 0, 1])


def test_a_plan_is_the_same_after_json():
    rows = [
        {"layer": 2, "variants": [0, 1], "method": "linear", "weights": [3, 1]},
        {"layer": 0, "variants": []},
        {"layer": 1, "variants": [2, 0], "method": "dare", "factor": 0.5, "density": 0.1},
    ]
    ends = {"variants": [1], "method": "passthrough", "scale": 0.5}
    for plan in (PLAN, StitchPlan.from_json({"layers": rows, "ends": ends})):
        data = json.loads(json.dumps(plan.to_json()))
        assert StitchPlan.from_json(data) == plan
        assert hash(StitchPlan.from_json(data)) == hash(plan)
    assert PLAN.to_json()["variants"] == list(NAMES)
    assert PLAN.to_json()["layers"][2] == {"layer": 3, "variants": [1, 0], "factor": 0.6}
    plan = StitchPlan.from_json({"layers": rows, "ends": ends})
    assert plan.to_json() == {"layers": rows, "ends": ends}
    made = StitchPlan(
        [StitchLayer(2, [0, 1], "linear", options={"weights": [3, 1]}), StitchLayer(0)]
    )
    assert made == StitchPlan.from_json(rows[:2])


def test_the_transform_is_the_function():
    sources = dict(enumerate(VARIANTS, 1))
    expected = stitch_models(PLAN, BASE, VARIANTS)
    for plan in (PLAN, PLAN.to_json()):
        step = stitch(plan, sources=sources)
        same(step(BASE), expected)
        assert step.steps == ({"op": "stitch", "args": {"plan": PLAN.to_json()}},)
    same(from_step(step.steps[0], sources=sources.__getitem__)(BASE), expected)
    # The variants may be anywhere among the sources, and the base what earlier steps made.
    moved = stitch([{"layer": 1, "variants": [1, 0]}], [7, 2], sources={2: CODE, 7: MATH})
    assert moved.steps[0]["args"]["models"] == [7, 2]
    cut = stitch_models(StitchPlan([StitchLayer(1, (0, 1))]), BASE, [MATH, CODE])
    same(moved(BASE), cut)
    shorter = {index: drop_blocks([0])(model) for index, model in sources.items()}
    later = chain(drop_blocks([0]), stitch([{"layer": 1, "variants": [0]}], sources=shorter))
    found = later(BASE)
    same(block(found, 0), block(MATH, 2))
    assert found.origins == (BASE.origins[2],)
    assert jax.eval_shape(later, BASE).num_layers == 1


def test_a_recipe_of_stitches():
    sources = dict(enumerate(VARIANTS, 1))
    recipe = Recipe().then(stitch(PLAN, sources=sources)).then(drop_blocks([0]))
    again = Recipe.from_json(json.loads(json.dumps(recipe.to_json())))
    found = again.transform(sources=sources)(BASE)
    same(found, drop_blocks([0])(stitch_models(PLAN, BASE, VARIANTS)))


PLANS = [
    ({"rows": []}, "this is no plan; one looks like"),
    ("plan", "this is no plan"),
    ({"layers": [], "end": {}}, "unknown key of a plan 'end'; did you mean 'ends'"),
    ([], "a plan without layers leaves no model"),
    ([{"variants": []}], "layer 0 of a plan is .*, not {'variants': "),
    ([3], "layer 0 of a plan is .*, not 3"),
    ([{"layer": 0}, {"layer": "1"}], "layer 1 of the plan is from layer '1'; layers are numbers"),
    ([{"layer": -1}], "from layer -1; layers are numbers from 0"),
    ([{"layer": 0, "variants": 1}], "variants of layer 0 of the plan are a list, not 1"),
    ([{"layer": 0, "variants": [-1]}], "variant -1 of layer 0 of the plan is no name and no"),
    ([{"layer": 0, "variants": ["mth"]}], "unknown variant 'mth'; did you mean 'math'"),
    ([{"layer": 0, "variants": [3]}], "has variant 3, but there are 3: math, code, chat"),
    ([{"layer": 0, "variants": [1, "code"]}], r"variants \[1, 'code'\] of layer 0 .* one twice"),
    (
        [{"layer": 0, "variants": [0, 1], "factor": "a"}],
        "layer 0 of the plan: factor of task_arithmetic is 'a'; it is a number",
    ),
    ([{"layer": 0, "factor": "a"}], "layer 0 of the plan: factor of task_arithmetic is 'a'"),
    ([{"layer": 0, "density": 1}], "layer 0 of the plan: density is an option of a method, but"),
    ([{"layer": 0, "method": "tie"}], "layer 0 of the plan: unknown method 'tie'; did you mean"),
    ([{"layer": 0, "method": "slerp"}], "the plan: slerp merges exactly 2 models, not 0"),
    (
        [{"layer": 0, "variants": [0], "method": "linear", "factor": 1}],
        "the plan: unknown option of linear 'factor'",
    ),
    (
        {"layers": [{"layer": 0}], "ends": {"variants": [0], "method": "ties"}},
        "ends of the plan: ties needs density",
    ),
]


@pytest.mark.parametrize(("data", "message"), PLANS)
def test_wrong_plans(data, message):
    with pytest.raises(InputError, match=message):
        StitchPlan.from_json(data, names=NAMES)


def test_plans_that_do_not_fit():
    with pytest.raises(InputError, match="layer 1 of the plan is from layer 5, but the models hav"):
        stitch_models(StitchPlan([StitchLayer(0), StitchLayer(5)]), BASE, [])
    with pytest.raises(InputError, match="the plan has variant 2, but there are 2 variants"):
        stitch_models(PLAN, BASE, [MATH, CODE])
    with pytest.raises(InputError, match="tiny and math differ in number of layers: 5 and 4"):
        stitch_models(PLAN, BASE, [drop_blocks([0])(MATH), CODE, CHAT])
    PLAN.check(5, 3, remove=1)
    with pytest.raises(InputError, match="the plan leaves out 1 of 5 layers, not 2"):
        PLAN.check(5, 3, remove=2)
    for layers in ([1, 0], [0, 1, 1]):
        plan = StitchPlan([StitchLayer(layer) for layer in layers])
        with pytest.raises(InputError, match="of the plan are not in order, each once"):
            plan.check(5, 0, remove=3)
    with pytest.raises(InputError, match="the plan has 3 variants, not 2"):
        coefficients(PLAN, 2)
    ties = StitchPlan.from_json([{"layer": 0, "variants": [0], "method": "ties", "density": 1}])
    with pytest.raises(InputError, match="ties is not linear in the tensors, so that it has no"):
        coefficients(ties)
    with pytest.raises(InputError, match="stitch needs source 2 of the recipe"):
        stitch(PLAN, sources={1: MATH})(BASE)
    with pytest.raises(InputError, match="models of a stitch are indices of sources, 1 and up, no"):
        stitch(PLAN, [0, 1, 2])
