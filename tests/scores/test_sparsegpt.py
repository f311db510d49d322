"""SparseGPT against the algorithm of the paper, one matrix and one input at a time."""

import logging

import jax.numpy as jnp
import numpy as np
import pytest

from jprune.core import InputError
from jprune.scores import sparsegpt as module
from jprune.scores.masks import Pattern
from jprune.scores.sparsegpt import inverse_factor, sparsegpt

RNG = np.random.default_rng(0)


def hessian(inputs, samples=400, seed=0):
    """Of inputs that depend on one another."""
    rng = np.random.default_rng(seed)
    mixed = np.eye(inputs) + 2 * rng.normal(size=(inputs, inputs)) / inputs**0.5
    x = rng.normal(size=(samples, inputs)) @ mixed
    return (2 * x.T @ x / samples).astype(np.float32)


def kernel(inputs, outputs, seed=1):
    return np.random.default_rng(seed).normal(size=(inputs, outputs)).astype(np.float32)


def by_the_paper(kernel, h, sparsity, pattern=None, columns=128):
    """The loop of the paper in float64, on W = kernel^T [out, in]."""
    w, h = kernel.T.astype(np.float64), h.astype(np.float64).copy()
    outputs, inputs = w.shape
    dead = np.diag(h) == 0
    h[dead, dead] = 1
    w[:, dead] = 0
    h[np.arange(inputs), np.arange(inputs)] += 0.01 * np.diag(h).mean()
    u = np.linalg.cholesky(np.linalg.inv(h)).T
    mask = np.ones(w.shape, bool)
    for first in range(0, inputs, columns):
        last = min(first + columns, inputs)
        if pattern is None:
            saliency = w[:, first:last] ** 2 / np.diag(u)[first:last] ** 2
            gone = np.zeros(saliency.size, bool)
            gone[
                np.argsort(saliency.reshape(-1), kind="stable")[: int(saliency.size * sparsity)]
            ] = 1
            mask[:, first:last] = ~gone.reshape(saliency.shape)
        errors = np.zeros((outputs, last - first))
        for i in range(first, last):
            if pattern is not None and i % pattern.of == 0:
                group = slice(i, i + pattern.of)
                saliency = w[:, group] ** 2 / np.diag(u)[group] ** 2
                order = np.argsort(saliency, axis=1, kind="stable")[:, : pattern.of - pattern.keep]
                part = np.ones(saliency.shape, bool)
                np.put_along_axis(part, order, False, axis=1)
                mask[:, group] = part
            q = np.where(mask[:, i], w[:, i], 0)
            error = (w[:, i] - q) / u[i, i]
            w[:, i:last] -= error[:, None] * u[i, i:last]
            w[:, i] = q
            errors[:, i - first] = error
        w[:, last:] -= errors @ u[first:last, last:]
    return w.T, mask.T


@pytest.mark.parametrize(
    ("inputs", "sparsity", "pattern"),
    [
        (48, 0.5, None),
        (300, 0.7, None),  # the last block is shorter
        (256, 0.0, None),
        (256, 0.99, None),
        (264, 0.0, Pattern(2, 4)),
        (300, 0.0, Pattern(1, 3)),  # blocks of 126
    ],
)
def test_against_the_paper(inputs, sparsity, pattern):
    w, h = kernel(inputs, 24), hessian(inputs)
    columns = 126 if pattern and pattern.of == 3 else 128
    expected, mask = by_the_paper(w, h, sparsity, pattern, columns)
    (found,), (kept,) = sparsegpt((w,), jnp.asarray(h), sparsity, pattern)
    np.testing.assert_array_equal(kept, mask)
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert (np.asarray(found)[~mask] == 0).all()


def test_linears_that_share_an_input_are_as_if_alone():
    h, first, second = jnp.asarray(hessian(200)), kernel(200, 16), kernel(200, 40, seed=2)
    together, masks = sparsegpt((first, second), h, 0.6)
    for w, found, mask in zip((first, second), together, masks, strict=True):
        (alone,), (expected,) = sparsegpt((w,), h, 0.6)
        np.testing.assert_array_equal(mask, expected)
        np.testing.assert_allclose(found, alone, atol=1e-5)


def test_it_beats_leaving_the_rest_as_it_was():
    w, h = kernel(96, 32), hessian(96)
    (found,), (mask,) = sparsegpt((w,), jnp.asarray(h), 0.5)

    def loss(change):
        return np.einsum("io,ij,jo->", change, h, change)

    assert loss(np.asarray(found) - w) < 0.8 * loss(np.where(mask, 0, w))


def test_dead_inputs_go_first():
    w, h = kernel(64, 8), hessian(64)
    h[[3, 40]], h[:, [3, 40]] = 0, 0
    (found,), (mask,) = sparsegpt((w,), jnp.asarray(h), 0.25)
    expected, kept = by_the_paper(w, h, 0.25)
    assert not mask[3].any() and not mask[40].any()
    assert (np.asarray(found)[[3, 40]] == 0).all()
    np.testing.assert_array_equal(mask, kept)
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_the_factor():
    h = hessian(50)
    damped = h + 0.01 * np.diag(h).mean() * np.eye(50)
    u = np.asarray(inverse_factor(jnp.asarray(h), "w"), np.float64)
    np.testing.assert_allclose(u.T @ u @ damped, np.eye(50), atol=1e-3)
    assert np.abs(np.tril(u, -1)).max() == 0


def test_a_singular_hessian_is_damped_and_that_is_said(monkeypatch, caplog):
    monkeypatch.setattr(module, "DAMPING", 1e-12)
    h = jnp.asarray(np.outer(*[np.linspace(1, 2, 40, dtype=np.float32)] * 2))
    with caplog.at_level(logging.WARNING, "jprune"):
        u = inverse_factor(h, "layers.3.mlp.down_proj")
    assert np.isfinite(np.asarray(u)).all()
    assert "Hessian of layers.3.mlp.down_proj is not positive definite: damping" in caplog.text


def test_a_hessian_that_nothing_helps():
    with pytest.raises(InputError, match="not positive definite even with damping 1; use more"):
        inverse_factor(jnp.asarray(-np.eye(4, dtype=np.float32)), "w")
    with pytest.raises(InputError, match="inputs of w are not finite"):
        inverse_factor(jnp.full((4, 4), jnp.nan), "w")
