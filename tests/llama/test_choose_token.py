"""Which tokens may be drawn, and how often."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jprune.core.errors import InputError
from jprune.llama.choose_token import Sampling, choose

PROBABILITIES = np.array([0.05, 0.4, 0.15, 0.3, 0.1])


def drawn(sampling, count=4000):
    logits = jnp.broadcast_to(jnp.log(PROBABILITIES), (count, 5))
    tokens = np.asarray(choose(logits, sampling, jax.random.key(0)))
    return np.bincount(tokens, minlength=5) / count


def test_greedy():
    logits = jnp.array([[0.0, 2.0, 1.0], [3.0, 2.0, 3.0]])
    assert choose(logits, Sampling(), jax.random.key(0)).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(1.0), PROBABILITIES),
        (Sampling(0.5), PROBABILITIES**2 / np.sum(PROBABILITIES**2)),
        (Sampling(1.0, top_k=2), np.array([0, 4, 0, 3, 0]) / 7),
        (Sampling(1.0, top_k=99), PROBABILITIES),
        # 0.4 and 0.3 do not reach 0.75 yet, so 0.15 is among those that do.
        (Sampling(1.0, top_p=0.75), np.array([0, 0.4, 0.15, 0.3, 0]) / 0.85),
        (Sampling(1.0, top_p=0.01), np.array([0, 1, 0, 0, 0])),
        (Sampling(1.0, top_k=3, top_p=0.5), np.array([0, 4, 0, 3, 0]) / 7),
    ],
)
def test_shares(sampling, expected):
    found = drawn(sampling)
    assert np.all(found[expected == 0] == 0)
    np.testing.assert_allclose(found, expected, atol=0.03)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -1.0}, "temperature is a number from 0 on"),
        ({"top_k": 0}, "top_k is an integer from 1 on"),
        ({"top_p": 0.0}, "top_p is above 0 and at most 1"),
        ({"top_p": 1.5}, "top_p is above 0 and at most 1"),
    ],
)
def test_what_cannot_be(values, message):
    with pytest.raises(InputError, match=message):
        Sampling(**values)
