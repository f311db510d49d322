"""Frequencies against the formula of each scaling, in float64."""

import jax.numpy as jnp
import numpy as np

from jprune.llama import Rope
from jprune.llama.rope import apply_rope, frequencies, rope_table


def base(theta, width):
    return theta ** (-np.arange(0, width, 2, dtype=np.float64) / width)


def test_plain_frequencies():
    np.testing.assert_allclose(frequencies(Rope(theta=5e5), 16), base(5e5, 16), rtol=1e-6)


def test_linear_scaling_divides_every_frequency():
    scaled = frequencies(Rope(kind="linear", factor=4.0), 16)
    np.testing.assert_allclose(scaled, base(1e4, 16) / 4, rtol=1e-6)


def test_llama3_scaling_spares_short_waves_and_divides_long_ones():
    rope = Rope(5e5, "llama3", 8.0, 1.0, 4.0, 8192)
    wanted = []
    for f in base(5e5, 128):
        wave = 2 * np.pi / f
        if wave < 8192 / 4:
            wanted.append(f)
        elif wave > 8192:
            wanted.append(f / 8)
        else:
            s = (8192 / wave - 1) / 3
            wanted.append((1 - s) * f / 8 + s * f)
    found = frequencies(rope, 128)
    np.testing.assert_allclose(found, wanted, rtol=2e-5)
    # All three regimes are there, or the test would show little.
    ratio = found / base(5e5, 128)
    assert np.isclose(ratio[0], 1) and np.isclose(ratio[-1], 1 / 8)
    assert ((ratio > 0.13) & (ratio < 0.99)).any()


def test_rotation_keeps_lengths_and_depends_on_distance_only():
    rng = np.random.default_rng(0)
    q, k = rng.normal(size=(2, 1, 1, 1, 8)).astype(np.float32)
    cos, sin = rope_table(Rope(), 8, 32)
    spread = [jnp.broadcast_to(x, (1, 32, 1, 8)) for x in (q, k)]
    q_at, k_at = (np.asarray(apply_rope(x, cos, sin))[0, :, 0] for x in spread)
    np.testing.assert_allclose(np.linalg.norm(q_at, axis=-1), np.linalg.norm(q), rtol=1e-5)
    products = q_at @ k_at.T
    np.testing.assert_allclose(products[9, 4], products[25, 20], rtol=1e-4)
    assert abs(products[9, 4] - products[9, 5]) > 1e-3
