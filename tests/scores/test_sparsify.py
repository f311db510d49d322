"""Pruning a whole model, against the same steps taken one by one."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest

from jprune.core import InputError
from jprune.llama import Masked, context, embed, forward, stack
from jprune.llama.forward import apply_block
from jprune.llama.linears import INPUT_OF, linear_kernels, with_kernels
from jprune.llama.masks import sparsity, unpack
from jprune.scores.inputs import stream
from jprune.scores.masks import count_mask, metric, pruned_count
from jprune.scores.sparsify import sparsify
from jprune.scores.weight_stats import weight_stats
from tests.tiny import tiny, windows

LLAMA = tiny(3)
IDS = windows(7, 12)
DENSITY = [0.7, 0.5, 0.3]


def inputs_of(block, h, ctx):
    """What each group of linears reads, and the residual stream after the block."""
    found = {}
    after = apply_block(block, h, ctx, tap=found.__setitem__)
    return found, after


def squares_of(x):
    """Mean over windows of the sum over tokens of x^2."""
    return np.square(np.asarray(x, np.float64)).sum(axis=1).mean(axis=0)


def wanda_by_hand(llama, ids, density):
    h, ctx = embed(llama, ids), context(llama.config, ids.shape[1])
    masks = {}
    for index, block in enumerate(llama.blocks):
        inputs, _ = inputs_of(block, h, ctx)
        kept = {}
        for name, kernel in linear_kernels(block).items():
            s = squares_of(inputs[INPUT_OF[name]]).astype(np.float32)
            count = pruned_count(kernel.shape[0], 1 - density[index])
            mask = count_mask(metric(kernel, s), count, axis=0)
            masks[f"layers.{index}.{name}.kernel"] = np.asarray(mask)
            kept[name] = jnp.where(mask, kernel, 0)
        h = apply_block(with_kernels(block, kept), h, ctx)
    return masks, h


@pytest.mark.parametrize("batch_size", [None, 2, 7])
@pytest.mark.parametrize("offload", ["none", "hidden"])
def test_wanda_prunes_on_what_pruned_blocks_put_out(batch_size, offload):
    expected, _ = wanda_by_hand(LLAMA, IDS, DENSITY)
    found = sparsify(LLAMA, "wanda", IDS, density=DENSITY, batch_size=batch_size, offload=offload)
    assert list(found.masks) == list(expected)
    for name, mask in expected.items():
        np.testing.assert_array_equal(unpack(found.masks[name]), mask)


@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "sparsegpt"])
def test_zeros_are_where_the_masks_say(criterion):
    result = sparsify(LLAMA, criterion, IDS, density=DENSITY)
    for index, block in enumerate(result.llama.blocks):
        for name, kernel in linear_kernels(block).items():
            mask = unpack(result.masks[f"layers.{index}.{name}.kernel"])
            np.testing.assert_array_equal(np.asarray(kernel) != 0, mask)
            if criterion != "sparsegpt":
                old = np.asarray(linear_kernels(LLAMA.blocks[index])[name])
                np.testing.assert_array_equal(kernel, np.where(mask, old, 0))
    assert result.llama.origins == LLAMA.origins


@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "sparsegpt"])
@pytest.mark.parametrize(("density", "pattern"), [(1.0, "unstructured"), (0.5, "4:4")])
def test_pruning_nothing_changes_nothing(criterion, density, pattern):
    result = sparsify(LLAMA, criterion, IDS, density=density, pattern=pattern)
    assert sparsity(result.masks) == 0
    np.testing.assert_array_equal(forward(result.llama, IDS), forward(LLAMA, IDS))


@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "sparsegpt"])
def test_patterns(criterion):
    result = sparsify(LLAMA, criterion, IDS, density=0.0, pattern="2:4")
    for mask in map(unpack, result.masks.values()):
        groups = np.asarray(mask).reshape(-1, 4, mask.shape[1]).sum(axis=1)
        assert (groups == 2).all()


@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "sparsegpt"])
def test_almost_everything_may_go(criterion):
    result = sparsify(LLAMA, criterion, IDS, density=0.01)
    assert sparsity(result.masks) > 0.9
    assert np.isfinite(np.asarray(forward(result.llama, IDS))).all()


@pytest.mark.parametrize("criterion", ["wanda", "sparsegpt"])
@pytest.mark.parametrize("stop", [1, 2])
def test_a_stopped_pass_goes_on_to_the_same_masks(criterion, stop):
    whole = sparsify(LLAMA, criterion, IDS, density=DENSITY)
    done = {}

    class Stopped(Exception):
        pass

    def after(index, block, masks):
        done[index] = (block, masks)
        if len(done) == stop:
            raise Stopped

    with pytest.raises(Stopped):
        sparsify(LLAMA, criterion, IDS, density=DENSITY, after=after)
    seen = []
    again = sparsify(
        LLAMA, criterion, IDS, density=DENSITY, done=done, after=lambda i, *_: seen.append(i)
    )
    assert seen == list(range(stop, 3))
    assert list(again.masks) == list(whole.masks)
    for name in whole.masks:
        np.testing.assert_array_equal(again.masks[name].bits, whole.masks[name].bits)
    np.testing.assert_array_equal(forward(again.llama, IDS), forward(whole.llama, IDS))


def test_stacks_adapters_and_missing_sublayers():
    block = LLAMA.blocks[1].replace(mlp=None, mlp_norm=None)
    llama = LLAMA.replace(blocks=(LLAMA.blocks[0], block, LLAMA.blocks[2]))
    result = sparsify(llama, "wanda", IDS, density=0.5)
    assert not any("layers.1.mlp" in name for name in result.masks)
    alike = sparsify(stack(llama), "wanda", IDS, density=0.5)
    np.testing.assert_array_equal(forward(alike.llama, IDS), forward(result.llama, IDS))


def test_a_sparse_model_loses_no_zeros_when_it_is_pruned_again():
    once = sparsify(LLAMA, "magnitude", density=0.5)
    masked = once.llama.replace(
        blocks=tuple(
            with_kernels(
                block,
                {
                    name: Masked(kernel, unpack(once.masks[f"layers.{i}.{name}.kernel"]))
                    for name, kernel in linear_kernels(block).items()
                },
            )
            for i, block in enumerate(once.llama.blocks)
        )
    )
    twice = sparsify(masked, "magnitude", density=0.3)
    for name, mask in twice.masks.items():
        assert not (np.asarray(unpack(mask)) & ~np.asarray(unpack(once.masks[name]))).any()


def test_the_hessian_and_squares_of_a_pass():
    h, ctx = embed(LLAMA, IDS), context(LLAMA.config, 12)
    expected = []
    for block in LLAMA.blocks:
        inputs, h = inputs_of(block, h, ctx)
        expected.append(inputs)
    seen = []

    def visit(index, block, found):
        for name, x in expected[index].items():
            x = np.asarray(x, np.float64)
            np.testing.assert_allclose(found.squares[name], squares_of(x), rtol=1e-5)
            hessian = 2 / 7 * np.einsum("bli,blj->ij", x, x)
            np.testing.assert_allclose(found.hessians[name], hessian, rtol=1e-4, atol=1e-4)
        seen.append(index)
        return block

    for reads_only in (False, True):
        stream(LLAMA, IDS, visit, hessian=True, reads_only=reads_only, batch_size=3)
    assert seen == [0, 1, 2] * 2


def test_statistics_of_the_metric():
    stats = weight_stats(LLAMA, IDS, outlier_factor=2.0)
    h, ctx = embed(LLAMA, IDS), context(LLAMA.config, 12)
    for index, block in enumerate(LLAMA.blocks):
        inputs, h = inputs_of(block, h, ctx)
        a = np.concatenate(
            [
                np.asarray(metric(kernel, squares_of(inputs[INPUT_OF[name]]).astype(np.float32)))
                .reshape(-1)
                .astype(np.float64)
                for name, kernel in linear_kernels(block).items()
            ]
        )
        assert stats.sizes[index] == a.size
        np.testing.assert_allclose(stats.mean[index], a.mean(), rtol=1e-5)
        np.testing.assert_allclose(stats.median[index], np.sort(a)[(a.size - 1) // 2], rtol=1e-5)
        np.testing.assert_allclose(
            stats.outliers[index], 100 * (a > 2 * a.mean()).mean(), rtol=1e-3
        )


@pytest.mark.parametrize(
    ("criterion", "change", "message"),
    [
        ("wandaa", {}, "unknown criterion 'wandaa'; did you mean 'wanda'"),
        ("wanda", {"ids": None}, "the criterion wanda needs calibration windows"),
        ("wanda", {"density": [0.5]}, "1 densities for a model of 3 blocks"),
        ("wanda", {"density": 1.5}, r"densities lie in \[0, 1\]"),
        ("magnitude", {"pattern": "3:5"}, "pattern 3:5 does not divide the 32 inputs of layers.0"),
    ],
)
def test_bad_requests(criterion, change, message):
    with pytest.raises(InputError, match=message):
        sparsify(LLAMA, criterion, **{"ids": IDS, "density": 0.5, **change})


@pytest.mark.parametrize("criterion", ["wanda", "sparsegpt"])
def test_activations_that_are_not_numbers(criterion):
    broken = LLAMA.replace(embed=LLAMA.embed.at[int(IDS[0, 3])].set(jnp.nan))
    with pytest.raises(InputError, match=r"(block 0|layers\.0).* not finite on the calibration"):
        sparsify(broken, criterion, IDS, density=0.5)


@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "sparsegpt"])
def test_patterns_of_their_own(criterion):
    result = sparsify(LLAMA, criterion, IDS, density=1.0, pattern=["1:4", "3:4", "2:4"])
    for index, keep in enumerate((1, 3, 2)):
        for name, kernel in linear_kernels(result.llama.blocks[index]).items():
            kept = unpack(result.masks[f"layers.{index}.{name}.kernel"])
            assert (kept.reshape(-1, 4, kept.shape[1]).sum(1) == keep).all()
            assert not np.asarray(kernel)[~kept].any()


def weighed(kernel, s):
    return jnp.abs(kernel) * s[:, None]


def test_a_criterion_of_the_users_own():
    name = f"{__name__}:weighed"
    sys.modules.setdefault(__name__, sys.modules[weighed.__module__])
    result = sparsify(LLAMA, name, IDS, density=0.5)
    stats = {}
    stream(LLAMA, IDS, lambda index, block, inputs: stats.setdefault(index, inputs) and block)
    s = np.asarray(stats[0].squares["attn_in"])
    kernel = np.asarray(LLAMA.blocks[0].attn.q.kernel)
    order = np.argsort(np.abs(kernel) * s[:, None], axis=0, kind="stable")
    expected = np.ones(kernel.shape, bool)
    np.put_along_axis(expected, order[: len(kernel) // 2], False, axis=0)
    found = unpack(result.masks["layers.0.self_attn.q_proj.kernel"])
    np.testing.assert_array_equal(found, expected)


def test_what_patterns_and_criteria_cannot_be():
    with pytest.raises(InputError, match="2 patterns for a model of 3 blocks"):
        sparsify(LLAMA, "magnitude", density=0.5, pattern=["2:4", "2:4"])
    with pytest.raises(InputError, match="all N:M or all 'unstructured'"):
        sparsify(LLAMA, "magnitude", density=0.5, pattern=["2:4", "unstructured", "2:4"])
    with pytest.raises(InputError, match="cannot import the criterion 'nowhere:f'"):
        sparsify(LLAMA, "nowhere:f", IDS, density=0.5)


def negative(kernel, s):
    return kernel


def too_small(kernel, s):
    return s


def whole_numbers(kernel, s):
    return jnp.ones(kernel.shape, jnp.int32)


def by_numpy(kernel, s):
    return np.abs(kernel) * np.asarray(s)[:, None]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (negative, "gave negative numbers, or NaN, in block 0 for self_attn.q_proj"),
        (too_small, r"of the shape \(32, 32\) of the kernel, not float32 of shape \(32,\)"),
        (whole_numbers, "should give floating-point numbers .* not int32"),
        (by_numpy, "failed on self_attn.q_proj in a compiled program, .* arrays of JAX"),
    ],
)
def test_criteria_of_the_users_own_that_do_not_keep_to_it(function, message):
    sys.modules.setdefault(__name__, sys.modules[function.__module__])
    with pytest.raises(InputError, match=message):
        sparsify(LLAMA, f"{__name__}:{function.__name__}", IDS, density=0.5)
