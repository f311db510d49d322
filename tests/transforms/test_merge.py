"""Merging models: which tensors take part, where, by what, and in which form the result is."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jprune.checkpoints import export_huggingface, load
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
    drop_blocks,
    drop_sublayers,
    merge_methods,
    merge_models,
)
from tests.llama.test_stack import same
from tests.tiny import FAMILIES, family, finetunes, tiny, windows
from tests.transforms.merging import (
    BASE,
    CHAT,
    CODE,
    ENDS,
    MATH,
    NUMBER,
    OPTIONS,
    VARIANTS,
    close,
    merged,
)


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
