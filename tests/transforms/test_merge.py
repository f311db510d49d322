"""Merging models: which tensors take part, where, by what, and in which form the result is."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jprune.checkpoints import export_huggingface, load
from jprune.core.errors import InputError
from jprune.core.mesh import use_mesh
from jprune.llama import (
    Lora,
    Masked,
    Run,
    fold_kernels,
    forward,
    named_params,
    stack,
    unstack,
)
from jprune.transforms import (
    METHODS,
    chain,
    drop_blocks,
    drop_sublayers,
    from_step,
    merge,
    merge_methods,
    merge_models,
)
from tests.llama.test_stack import same
from tests.tiny import FAMILIES, family, finetunes, tiny, windows

BASE = tiny(4)
MATH, CODE, CHAT = VARIANTS = finetunes(BASE, "math", "code", "chat")
OPTIONS = {
    "linear": {"weights": [3, 2, 1]},
    "slerp": {"t": 0.3},
    "task_arithmetic": {"factor": 0.4},
    "ties": {"density": 0.3},
    "dare": {"density": 0.5, "seed": 3},
    "breadcrumbs": {"density": 0.4},
    "model_stock": {},
    "passthrough": {"scale": 1.0},
}
NUMBER = {"slerp": 2, "passthrough": 1}
ENDS = ("embed_tokens.embedding", "norm.weight", "lm_head.kernel")


def merged(name, models=VARIANTS, base=BASE, **changes):
    options = OPTIONS[name] | changes
    return merge_models(list(models)[: NUMBER.get(name, 3)], name, base=base, **options)


def close(a, b, atol=1e-6):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=atol, rtol=0), a, b)


def places(a, b):
    """The layers, and 'ends', in which two models differ."""
    first, second = named_params(a), named_params(b)
    differ = {name for name in first if not np.array_equal(first[name], second[name])}
    layers = {int(name.split(".")[1]) for name in differ if name.startswith("layers.")}
    return layers | ({"ends"} if differ & set(ENDS) else set())


def test_every_method_is_tested():
    assert set(OPTIONS) == set(METHODS)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", OPTIONS)
def test_models_that_are_all_equal_are_the_result(name, dtype):
    square = tiny(2, vocab_size=32, intermediate_size=32, num_key_value_heads=4)
    llama = jax.tree.map(lambda x: x.astype(dtype), square)
    found = merged(name, [llama] * 3, llama)
    assert found.origins == llama.origins and found.config == llama.config

    def within_one_unit(x, y):
        assert x.dtype == y.dtype
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        unit = float(jnp.finfo(dtype).eps) * 2.0 ** np.floor(np.log2(np.abs(y)))
        assert (np.abs(x - y) <= unit).all()

    jax.tree.map(within_one_unit, found, llama)


@pytest.mark.parametrize("name", ["linear", "ties", "slerp", "model_stock"])
def test_every_tensor_is_merged_as_hugging_face_stores_it(name):
    models = [named_params(m) for m in (BASE, *VARIANTS[: NUMBER.get(name, 3)])]
    result = named_params(merged(name))
    for tensor in (*ENDS, "layers.1.self_attn.k_proj.kernel", "layers.3.mlp.down_proj.kernel"):
        own = [np.asarray(m[tensor]) for m in models]
        turned = [x.T for x in own] if tensor.endswith(".kernel") else own
        expected = getattr(merge_methods, name)(turned[0], turned[1:], **OPTIONS[name])
        expected = expected.T if tensor.endswith(".kernel") else expected
        np.testing.assert_allclose(result[tensor], expected, atol=1e-6, err_msg=tensor)


def test_of_equals_those_later_in_the_files_stay():
    """The order of [out, in] for kernels, of the rows of the embeddings."""
    zero = jax.tree.map(jnp.zeros_like, tiny(1))
    ones = jax.tree.map(jnp.ones_like, zero)
    found = named_params(merge_models([ones], "ties", base=zero, density=0.25))
    kernel = np.asarray(found["layers.0.self_attn.k_proj.kernel"])
    assert kernel.shape == (32, 16) and kernel[:, :12].sum() == 0 and kernel[:, 12:].all()
    embedding = np.asarray(found["embed_tokens.embedding"]).reshape(-1)
    assert embedding.sum() == 776 and embedding[-776:].all()


def test_the_identities_of_whole_models():
    same(merged("task_arithmetic", factor=0.0), BASE)
    same(merged("linear", weights=[0, 1, 0]).replace(blocks=()), CODE.replace(blocks=()))
    same(jax.tree.leaves(merged("linear", weights=[0, 1, 0])), jax.tree.leaves(CODE))
    for t, expected in ((0.0, MATH), (1.0, CODE)):
        same(jax.tree.leaves(merged("slerp", t=t)), jax.tree.leaves(expected))
    close(
        jax.tree.leaves(merge_models([CHAT], "ties", base=BASE, density=1.0)),
        jax.tree.leaves(CHAT),
    )
    passed = merge_models([CHAT], "passthrough")
    same(passed, CHAT)
    assert passed.blocks[0].mlp.up.kernel is CHAT.blocks[0].mlp.up.kernel


@pytest.mark.parametrize("name", ["task_arithmetic", "ties", "dare"])
def test_all_forms_give_the_same(name):
    expected = merged(name)
    for base_form in (unstack, stack):
        for form in (unstack, stack):
            base, models = base_form(BASE), [form(model) for model in VARIANTS]
            found = merged(name, models, base)
            assert isinstance(found.blocks[0], Run) == (base_form is stack)
            same(unstack(found), expected)
    same(unstack(merged(name, VARIANTS, partly_stacked(BASE))), expected)


@pytest.mark.parametrize(("name", "form"), [("linear", stack), ("model_stock", unstack)])
def test_under_jit_and_on_shapes(name, form):
    short = drop_blocks([1, 2])
    base, models = form(short(BASE)), [short(model) for model in VARIANTS]

    def function(base, models):
        return merge_models(models, name, base=base, **OPTIONS[name])

    shapes = jax.eval_shape(function, base, models)
    found = function(base, models)
    assert jax.tree.structure(shapes) == jax.tree.structure(found)
    close(jax.jit(function)(base, models), found)


def test_models_on_the_host_stay_there():
    on_host = functools.partial(jax.tree.map, np.asarray)
    for form in (unstack, stack):
        found = merged("ties", map(on_host, VARIANTS), on_host(form(BASE)))
        assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(found))
        same(unstack(found), merged("ties"))


def test_adapters_and_masks_are_folded_first():
    def adapted(block, seed):
        keys = jax.random.split(jax.random.key(seed), 3)
        kernel = block.mlp.up.kernel
        lora = Lora(
            kernel,
            0.1 * jax.random.normal(keys[0], (kernel.shape[0], 2)),
            jax.random.normal(keys[1], (2, kernel.shape[1])),
            scale=2.0,
        )
        down = Masked(
            block.mlp.down.kernel, jax.random.bernoulli(keys[2], 0.5, block.mlp.down.kernel.shape)
        )
        mlp = block.mlp
        mlp = mlp.replace(up=mlp.up.replace(kernel=lora), down=mlp.down.replace(kernel=down))
        return block.replace(mlp=mlp)

    def with_adapters(llama, seed):
        blocks = tuple(adapted(b, seed + i) for i, b in enumerate(llama.blocks))
        return llama.replace(blocks=blocks)

    base, *models = (with_adapters(m, 10 * i) for i, m in enumerate((BASE, *VARIANTS)))
    folded = [fold_kernels(model) for model in (base, *models)]
    for name in ("linear", "ties"):
        expected = merged(name, folded[1:], folded[0])
        close(merged(name, models, base), expected)
        close(unstack(merged(name, map(stack, models), stack(base))), expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(name):
    base = family(name)
    models = finetunes(base, "a", "b")
    found = merge_models(models, "linear")
    expected = jax.tree.map(lambda x, y: (x + y) / 2, *(jax.tree.leaves(m) for m in models))
    close(jax.tree.leaves(found), expected)
    assert np.isfinite(forward(found, windows(1, 8))).all()


def test_models_without_some_sublayers():
    cut = drop_sublayers(attention=[1], mlp=[2])
    models = [cut(model) for model in (BASE, *VARIANTS)]
    same(merged("ties", models[1:], models[0]), cut(merged("ties")))
    stacked = [stack(model) for model in models]
    same(unstack(merged("ties", stacked[1:], stacked[0])), cut(merged("ties")))


def partly_stacked(llama):
    """The first block by itself, the others in a run."""
    return llama.replace(blocks=(llama.blocks[0], *stack(drop_blocks([0])(llama)).blocks))


@pytest.mark.parametrize(
    ("form", "method", "options"),
    [
        (unstack, "ties", {"density": 0.3}),
        (stack, "dare", {"density": 0.5}),
        (stack, "linear", {}),
        (partly_stacked, "linear", {}),
    ],
)
def test_models_on_a_mesh_stay_as_they_are_spread(tmp_path, form, method, options):
    sized = tiny(1 if method in ("ties", "dare") else 2, vocab_size=96)
    for name, model in zip("bmc", (sized, *finetunes(sized, "m", "c")), strict=True):
        export_huggingface(tmp_path / name, model)
    names = [tmp_path / name for name in "bmc"]
    alone = [load(name) for name in names]
    expected = merge_models(alone[1:], method, base=alone[0], **options)
    with use_mesh("fsdp:4,tensor:2"):
        spread = [form(load(name)) for name in names]
        found = merge_models(spread[1:], method, base=spread[0], **options)
        like = spread[0] if form is unstack else stack(spread[0])
        for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(like), strict=True):
            assert x.sharding == y.sharding
        close(unstack(found), expected)


# Where


def test_layers_outside_are_those_of_the_base():
    found = merged("task_arithmetic", layers="1-2")
    assert places(found, BASE) == {1, 2}
    whole = merged("task_arithmetic")
    assert places(found, whole) == {0, 3, "ends"}
    assert found.blocks[0].attn.q.kernel is BASE.blocks[0].attn.q.kernel
    assert places(merged("task_arithmetic", layers=[3]), BASE) == {3}
    assert places(merged("task_arithmetic", layers=-1), BASE) == {3}
    # Without a base, those of the first.
    assert places(merge_models([MATH, CODE], "linear", layers=[0]), MATH) == {0}


def test_embeddings_final_norm_and_head():
    assert places(merged("ties"), BASE) == {0, 1, 2, 3, "ends"}
    assert places(merged("ties", ends="base"), BASE) == {0, 1, 2, 3}
    assert places(merged("ties", layers=[1], ends="merge"), BASE) == {1, "ends"}
    found = named_params(merged("task_arithmetic"))
    models = [named_params(m) for m in (BASE, *VARIANTS)]
    for name in ENDS:
        base, *others = (np.asarray(m[name], np.float64) for m in models)
        expected = base + 0.4 * sum(x - base for x in others)
        np.testing.assert_allclose(found[name], expected, atol=1e-6)


def test_a_method_for_each_range():
    found = merge_models(
        VARIANTS,
        "task_arithmetic",
        base=BASE,
        factor=0.4,
        layers=[
            {"layers": [0], "factor": 0.2},
            {"layers": "1", "method": "linear", "weights": [3, 2, 1]},
            {"layers": "-1"},
        ],
    )
    expected = {
        0: merged("task_arithmetic", factor=0.2),
        1: merged("linear"),
        2: BASE,
        3: merged("task_arithmetic"),
    }
    for layer, model in expected.items():
        same(found.blocks[layer].replace(origin=None), model.blocks[layer].replace(origin=None))
    assert places(found, BASE) == {0, 1, 3}
    only = merge_models(VARIANTS, None, layers=[{"layers": "2-3", "method": "linear"}])
    assert places(only, MATH) == {2, 3}


def test_values_for_each_layer():
    factors = [0.0, 0.3, 0.6, 1.0]
    found = merged("task_arithmetic", factor=factors, ends="base")
    for layer, factor in enumerate(factors):
        same(found.blocks[layer], merged("task_arithmetic", factor=factor).blocks[layer])
    assert places(found, BASE) == {1, 2, 3}
    weights = [[1, 0, 0], [0, 0, 1]]
    found = merged("linear", weights=weights, layers="1,3")
    np.testing.assert_array_equal(found.blocks[1].mlp_norm, MATH.blocks[1].mlp_norm)
    np.testing.assert_array_equal(found.blocks[3].mlp_norm, CHAT.blocks[3].mlp_norm)
    assert places(found, BASE) == {1, 3}


def test_dare_draws_by_the_name_of_the_tensor_and_the_seed():
    one = named_params(merged("dare"))
    other = named_params(merged("dare", seed=4))
    base = named_params(BASE)
    q, k = ("layers.0.mlp.gate_proj.kernel", "layers.0.mlp.up_proj.kernel")
    assert (np.asarray(one[q]) != np.asarray(other[q])).mean() > 0.3
    kept = [np.asarray(one[name]) != np.asarray(base[name]) for name in (q, k)]
    assert (kept[0] != kept[1]).any()
    # Layer 1 alone has the numbers that it has among all.
    alone = merged("dare", layers=[1])
    same(alone.blocks[1], merged("dare").blocks[1])


def test_the_users_own_method(tmp_path, monkeypatch):
    (tmp_path / "own_merge.py").write_text(
        "def lopsided(base, variants, share=0.5, rows=()):\n"
        "    assert base is None or base.dtype == 'float32'\n"
        "    lead = variants[0]\n"
        "    return lead + share * (variants[-1] - lead) + (lead.shape[0] in rows)\n"
        "def short(base, variants):\n"
        "    return variants[0][:1]\n"
    )
    monkeypatch.chdir(tmp_path)
    found = merge_models([MATH, CODE], "own_merge:lopsided", base=BASE, share=0.25, rows=[16])
    shares = named_params(merge_models([MATH, CODE], "linear", weights=[3, 1]))
    for name, value in named_params(found).items():
        # [out, in] has 16 rows in k and v alone.
        added = name.endswith(("k_proj.kernel", "v_proj.kernel"))
        np.testing.assert_allclose(value, shares[name] + added, atol=1e-6)
    with pytest.raises(
        InputError, match=r"own_merge:short should give an array of shape \[32\] for layers.0.inp"
    ):
        merge_models([MATH, CODE], "own_merge:short")
    with pytest.raises(InputError, match="no function longer"):
        merge_models([MATH, CODE], "own_merge:longer")


# Vocabularies


def test_the_common_vocabulary(tmp_path):
    def with_tokens(llama, number):
        config = dataclasses.replace(llama.config, vocab_size=97 + number)
        rows = jnp.full((number, 32), 9.0)
        head = llama.lm_head.replace(kernel=jnp.pad(llama.lm_head.kernel, [(0, 0), (0, number)]))
        embed = jnp.concatenate([llama.embed, rows])
        return llama.replace(config=config, embed=embed, lm_head=head)

    expected = merged("ties")
    wide = [with_tokens(model, number) for number, model in enumerate(VARIANTS)]
    with pytest.raises(InputError, match="tiny and code differ in vocabulary size: 97 and 98; --v"):
        merged("ties", wide)
    same(merged("ties", wide, vocab="intersect"), expected)
    same(merged("ties", VARIANTS, with_tokens(BASE, 5), vocab="intersect"), expected)
    config = merged("ties", VARIANTS, with_tokens(BASE, 5), vocab="intersect").config
    assert config.vocab_size == 97
    tied = [family("gemma"), *finetunes(family("gemma"), "a")]
    shorter = tied[1].replace(embed=tied[1].embed[:90])
    found = merge_models([tied[0], shorter], "linear", vocab="intersect")
    assert found.embed.shape == (90, 32) and found.lm_head is None
    with pytest.raises(InputError, match="'intersct'; did you mean 'intersect'"):
        merged("ties", vocab="intersct")


# As a transform


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
