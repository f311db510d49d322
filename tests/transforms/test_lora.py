"""Adapters: where they go, how they start, and that they change nothing before they are trained."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jprune.core import mesh as meshes
from jprune.core.errors import InputError
from jprune.llama import Lora, Masked, forward, named_params, stack, unstack
from jprune.llama.kernels import is_kernel
from jprune.transforms import add_lora, chain, drop_sublayers, fold_lora, from_step
from tests.tiny import tiny, windows

logits = jax.jit(forward)


def same(ours, theirs):
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def kernels(llama):
    leaves, _ = jax.tree_util.tree_flatten_with_path(llama, is_leaf=is_kernel)
    return [leaf for _, leaf in leaves if is_kernel(leaf)]


def trained(llama):
    """`llama` with numbers in the place of every b."""
    rng = np.random.default_rng(0)

    def fill(kernel):
        if isinstance(kernel, Masked):
            return kernel.replace(kernel=fill(kernel.kernel))
        if isinstance(kernel, Lora):
            return kernel.replace(b=jnp.asarray(rng.normal(size=kernel.b.shape), jnp.float32))
        return kernel

    return jax.tree.map(fill, llama, is_leaf=is_kernel)


def masked(llama):
    """`llama` with a mask over half of each query and down projection."""
    rng = np.random.default_rng(1)

    def mask(linear):
        keep = jnp.asarray(rng.random(linear.kernel.shape) < 0.5)
        return linear.replace(kernel=Masked(linear.kernel, keep))

    blocks = tuple(
        block.replace(
            attn=block.attn.replace(q=mask(block.attn.q)),
            mlp=block.mlp.replace(down=mask(block.mlp.down)),
        )
        for block in llama.blocks
    )
    return llama.replace(blocks=blocks)


@pytest.mark.parametrize("form", [lambda llama: llama, stack], ids=["tuple", "stacked"])
def test_a_new_adapter_changes_nothing(form):
    llama, ids = form(tiny(2)), windows(2, 8)
    adapted = add_lora()(llama)
    assert len(kernels(adapted)) == (14 if form(tiny(2)).blocks[1:] else 7)
    np.testing.assert_allclose(logits(adapted, ids), logits(llama, ids), atol=1e-5)
    same(fold_lora()(adapted), llama)


def test_how_it_starts():
    llama = add_lora(rank=3, alpha=12, dropout=0.25)(tiny(3, hidden_size=1024, head_dim=256))
    seen = []
    for block in llama.blocks:
        for kernel, rows, columns in (
            (block.attn.q.kernel, 1024, 1024),
            (block.attn.v.kernel, 1024, 512),
            (block.mlp.down.kernel, 56, 1024),
        ):
            assert kernel.a.shape == (rows, 3) and kernel.b.shape == (3, columns)
            assert kernel.a.dtype == kernel.b.dtype == jnp.float32
            assert (kernel.scale, kernel.dropout) == (4.0, 0.25)
            assert not kernel.b.any()
            # Kaiming uniform with slope sqrt(5): sqrt(2 / (1 + 5)) * sqrt(3 / in).
            bound = np.sqrt(2 / 6) * np.sqrt(3 / rows)
            assert np.abs(kernel.a).max() <= bound
            if rows == 1024:
                np.testing.assert_allclose(kernel.a.std(), bound / np.sqrt(3), rtol=0.05)
                assert np.abs(kernel.a).max() > 0.99 * bound
            seen.append(np.asarray(kernel.a).tobytes())
    assert len(set(seen)) == 9
    other = add_lora(rank=3, seed=1)(tiny(1)).blocks[0].attn.q.kernel.a
    assert (other != add_lora(rank=3)(tiny(1)).blocks[0].attn.q.kernel.a).any()


def test_stacked_and_unstacked_get_the_same_numbers():
    llama = drop_sublayers(attention=[2])(tiny(4))  # three runs
    same(unstack(add_lora(rank=2)(stack(llama))), add_lora(rank=2)(llama))


def test_under_jit_and_as_shapes():
    llama, change = stack(tiny(2)), add_lora(rank=2, targets=["q_proj", "up_proj"])
    same(jax.jit(change)(llama), change(llama))
    shapes = jax.eval_shape(chain(change, fold_lora()), llama)
    assert [leaf.shape for leaf in jax.tree.leaves(shapes)] == [
        leaf.shape for leaf in jax.tree.leaves(llama)
    ]


def test_targets():
    llama = add_lora(targets=("k_proj", "down_proj"))(drop_sublayers(mlp=[1])(tiny(2)))
    names = [name for name in named_params(llama) if name.endswith(".a")]
    assert names == [
        "layers.0.self_attn.k_proj.kernel.a",
        "layers.0.mlp.down_proj.kernel.a",
        "layers.1.self_attn.k_proj.kernel.a",
    ]


@pytest.mark.parametrize("form", [lambda llama: llama, stack], ids=["tuple", "stacked"])
def test_on_masked_kernels(form):
    llama = form(masked(tiny(2)))
    adapted = trained(add_lora(rank=2, alpha=2)(llama))
    query = adapted.blocks[0].block.attn.q if form is stack else adapted.blocks[0].attn.q
    assert isinstance(query.kernel, Masked) and isinstance(query.kernel.kernel, Lora)
    folded = fold_lora()(adapted)
    np.testing.assert_allclose(
        logits(folded, windows(2, 8)), logits(adapted, windows(2, 8)), atol=1e-3
    )
    for before, after in zip(kernels(adapted), kernels(folded), strict=False):
        if isinstance(before, Masked):
            lora, mask = before.kernel, np.asarray(before.mask)
            expected = np.where(mask, lora.kernel + np.asarray(lora.a) @ np.asarray(lora.b), 0)
            np.testing.assert_array_equal(after.mask, mask)
            np.testing.assert_allclose(after.kernel, expected, atol=1e-5)
            assert not np.asarray(after.kernel)[~mask].any()
    assert len(kernels(folded)) == len(kernels(llama))


def test_folding_rounds_once_to_the_kernels_dtype():
    llama = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), tiny(1))
    adapted = trained(add_lora(rank=2, alpha=1)(llama))
    lora = adapted.blocks[0].mlp.up.kernel
    update = 0.5 * np.asarray(lora.a) @ np.asarray(lora.b)
    expected = (lora.kernel.astype(jnp.float32) + update).astype(jnp.bfloat16)
    np.testing.assert_array_equal(fold_lora()(adapted).blocks[0].mlp.up.kernel, expected)


def test_on_the_host():
    llama = jax.tree.map(np.asarray, tiny(1))
    adapted = add_lora(rank=2)(llama)
    assert {type(leaf) for leaf in jax.tree.leaves(adapted)} == {np.ndarray}
    assert type(fold_lora()(adapted).blocks[0].mlp.up.kernel) is np.ndarray
    same(adapted, add_lora(rank=2)(tiny(1)))


def test_factors_lie_beside_their_kernels_on_a_mesh():
    from jprune.llama.sharding import on_mesh

    with meshes.use_mesh("fsdp:2,tensor:4"):
        place = on_mesh(meshes.current_mesh(), tiny(1).config)
        for llama in (tiny(2), stack(tiny(2))):
            named = named_params(llama)
            placed = [jax.device_put(x, place(name, x.shape)) for name, x in named.items()]
            adapted = add_lora(rank=2)(jax.tree.unflatten(jax.tree.structure(llama), placed))
            for name, leaf in named_params(adapted).items():
                expected = place(name, leaf.shape)
                assert leaf.sharding.is_equivalent_to(expected, leaf.ndim), name


def test_the_recipe_says_how():
    change = chain(add_lora(rank=2, targets=("q_proj",), seed=3), fold_lora())
    assert change.steps == (
        {"op": "add_lora", "args": {"rank": 2, "targets": ["q_proj"], "seed": 3}},
        {"op": "fold_lora", "args": {}},
    )
    same(from_step(change.steps[0])(tiny(1)), add_lora(2, targets=["q_proj"], seed=3)(tiny(1)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"targets": ["q_prj"]}, "unknown target 'q_prj'; did you mean 'q_proj'"),
        ({"targets": []}, "targets is empty; name some of q_proj, k_proj, v_proj, o_proj, gate"),
        ({"rank": 0}, "rank takes an integer from 1 on, not 0"),
        ({"alpha": 0}, "alpha takes a number above 0, not 0"),
        ({"dropout": 1.0}, "dropout takes a number from 0 on and below 1, not 1.0"),
        ({"seed": -1}, "seed takes an integer from 0 on, not -1"),
    ],
)
def test_arguments_that_cannot_be(arguments, message):
    with pytest.raises(InputError, match=message):
        add_lora(**arguments)


def test_models_that_cannot_be_adapted():
    twice = chain(add_lora(), add_lora())
    with pytest.raises(InputError, match=r"q_proj has an adapter already; fold it first"):
        twice(tiny(1))
    with pytest.raises(InputError, match="no block of the model has any of gate_proj, up_proj"):
        add_lora(targets=["gate_proj", "up_proj"])(drop_sublayers(mlp=[0])(tiny(1)))
