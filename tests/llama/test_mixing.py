"""The one function that mixes tensors: exact where it must be, and close everywhere."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jprune.llama import mix_tensors


def tensors(number=4, shape=(7, 5), seed=0, spread=0.01):
    """Finetunes of one tensor: a common part and a small part of each."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal(shape)
    parts = spread * rng.standard_normal((number, *shape))
    return [(common + part).astype(np.float32) for part in parts]


def bits(x):
    return np.asarray(x).view(np.uint32)


MIXES = [
    (-0.2, 0.4, 0.4, 0.4),
    (0.0, 1 / 3, 1 / 3, 1 / 3),
    (-2.0, 1.0, 1.0, 1.0),
    (0.1, 0.0, 0.6, 0.3),
    (0.0, 0.0, 0.9, 0.0),
    (0.3, 0.4, -0.9, 0.7),
]


@pytest.mark.parametrize("mix", MIXES)
def test_the_sum(mix):
    x = tensors()
    expected = sum(c * t.astype(np.float64) for c, t in zip(mix, x, strict=True))
    found = mix_tensors(np.float32(mix), x)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize("mix", [mix for mix in MIXES if abs(sum(mix) - 1) < 1e-9])
def test_equal_sources_are_exactly_the_result(mix):
    (x,) = tensors(1)
    np.testing.assert_array_equal(bits(mix_tensors(np.float32(mix), [x] * 4)), bits(x))


def test_coefficients_that_add_up_to_one_but_for_their_rounding():
    (x,) = tensors(1)
    sums = set()
    for factor in np.linspace(0.05, 1, 20):
        mix = np.float32([1 - 3 * factor, factor, factor, factor])
        sums.add(float(np.cumsum(mix)[-1]))
        np.testing.assert_array_equal(bits(mix_tensors(mix, [x] * 4)), bits(x))
    assert len(sums) > 1


def test_one_source_alone_is_the_result_bit_for_bit():
    x = tensors(3)
    x[1][0, :2] = -0.0, 1e-42
    x[0][:] = np.nan
    x[2][:] = np.inf
    found = jax.jit(mix_tensors)(np.float32([0, 1, 0]), x)
    np.testing.assert_array_equal(bits(found), bits(x[1]))


def test_a_factor_on_one_source():
    (x,) = tensors(1)
    np.testing.assert_array_equal(mix_tensors(np.float32([0.25]), [x]), 0.25 * x)
    np.testing.assert_array_equal(mix_tensors(np.float32([0, 0]), [x, x]), 0 * x)
    np.testing.assert_array_equal(mix_tensors(np.float32([0, 0.25]), [x * np.nan, x]), 0.25 * x)


def test_sources_without_a_coefficient_may_be_left_out():
    x, mix = tensors(5), np.float32([0.0, 0.3, 0.0, 0.3, 0.4])
    used = [1, 3, 4]
    few = jax.jit(mix_tensors)(mix[used], [x[i] for i in used])
    np.testing.assert_array_equal(bits(jax.jit(mix_tensors)(mix, x)), bits(few))


def test_rounded_once():
    x = [jnp.asarray(t, jnp.bfloat16) for t in tensors(spread=0.3)]
    mix = np.float32([-0.2, 0.4, 0.4, 0.4])
    wide = mix_tensors(mix, [t.astype(jnp.float32) for t in x])
    found = mix_tensors(mix, x)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, wide.astype(jnp.bfloat16))
    np.testing.assert_array_equal(mix_tensors(mix, x, jnp.float32), wide)


def test_one_array_of_all():
    x, mix = tensors(), np.float32([0.1, 0.2, 0.3, 0.4])
    np.testing.assert_array_equal(mix_tensors(mix, jnp.stack(x)), mix_tensors(mix, x))
