"""Windows of several documents: each document as if it were alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jprune.core.mesh import use_mesh
from jprune.llama import attention, context, hidden_states, stack
from jprune.llama.attention import plain_attention
from jprune.llama.rope import positions
from jprune.llama.splash import splash_attention
from jprune.retrain import Batch, gradients, next_token_loss, split
from tests.tiny import tiny, windows

# Lengths of the documents of each window of 24 tokens; the rest is padding.
LAYOUTS = [(24,), (5, 1, 12, 6), (9, 11), (1, 1, 20), (7, 3)]
LENGTH = 24


def packed(seed=0, length=LENGTH, layouts=LAYOUTS):
    """Ids, segment numbers, and the documents one by one."""
    ids = windows(len(layouts), length, seed=seed)
    segments = np.zeros(ids.shape, np.int32)
    parts = []
    for row, layout in enumerate(layouts):
        start = 0
        for number, size in enumerate(layout, 1):
            segments[row, start : start + size] = number
            parts.append(ids[row, start : start + size])
            start += size
    return ids, segments, parts


def alone(parts):
    """A window for each document, and which of its tokens are the document's."""
    ids, mask = np.zeros((2, len(parts), LENGTH), np.int32)
    for row, part in enumerate(parts):
        ids[row, : len(part)], mask[row, : len(part)] = part, 1
    return ids, mask.astype(bool)


def grad(llama, batch, remat=False):
    params, rest = split(llama)
    run = jax.jit(lambda p, b: gradients(p, rest, b, None, next_token_loss, remat=remat))
    return run(params, jax.tree.map(lambda x: jnp.asarray(x[None]), batch))


@pytest.mark.parametrize(
    ("changes", "form", "remat"),
    [
        ({}, stack, False),
        ({"sliding_window": 4}, stack, True),
        ({"num_key_value_heads": 1}, lambda llama: llama, True),
        ({"num_key_value_heads": 4}, lambda llama: llama, False),
    ],
    ids=["stacked", "window", "one_kv_head", "full_heads"],
)
def test_loss_and_gradients_are_those_of_the_documents_alone(changes, form, remat):
    """A document alone: what follows it in its window is invisible to it, and does not count."""
    ids, segments, parts = packed()
    llama = form(tiny(2, **changes))
    total, count, grads = grad(llama, Batch(ids, np.ones(ids.shape, bool), segments), remat)
    expected_total, expected_count, expected = grad(llama, Batch(*alone(parts)))
    assert count == expected_count == sum(len(part) - 1 for part in parts)
    np.testing.assert_allclose(total, expected_total, rtol=1e-6)
    for name, one in grads.items():
        scale = np.abs(expected[name]).max()
        np.testing.assert_allclose(one, expected[name], atol=3e-6 * scale, err_msg=name)


def test_first_tokens_padding_and_masked_tokens_do_not_count():
    _, segments, _ = packed()
    mask = np.random.default_rng(0).random(segments.shape) < 0.5
    found = Batch(segments, mask, segments).counted
    for row, place in np.ndindex(found.shape):
        document = [i for i in range(LENGTH) if segments[row, i] == segments[row, place + 1]]
        expected = segments[row, place + 1] and place + 1 != document[0] and mask[row, place + 1]
        assert found[row, place] == expected


@pytest.mark.skipif(len(jax.devices()) < 8, reason="needs eight devices")
def test_on_a_mesh():
    ids, segments, _ = packed()
    ids, segments = (np.concatenate([x, x[:3]]) for x in (ids, segments))
    llama = tiny(2)
    run = jax.jit(lambda ids, segments: hidden_states(llama, ids, segments=segments))
    expected = run(ids, segments)
    with use_mesh("data:2,fsdp:2,tensor:2"):
        found = jax.jit(lambda i, s: hidden_states(llama, i, segments=s))(ids, segments)
    np.testing.assert_allclose(found, expected, atol=2e-4)


def test_positions_restart_where_the_number_changes():
    segments = jnp.asarray([[1, 1, 1, 2, 3, 3, 0, 0], [4, 4, 4, 4, 4, 4, 4, 4]])
    expected = [[0, 1, 2, 0, 0, 1, 0, 1], [0, 1, 2, 3, 4, 5, 6, 7]]
    np.testing.assert_array_equal(positions(segments), expected)
    config = tiny(1).config
    table, packed = (context(config, 8, segments=s) for s in (None, segments))
    np.testing.assert_array_equal(packed.cos, table.cos[np.array(expected)])
    np.testing.assert_array_equal(packed.sin, table.sin[np.array(expected)])


def qkv(length, heads, kv_heads, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda n: jnp.asarray(rng.normal(size=(2, length, n, 16)), jnp.float32)  # noqa: E731
    return draw(heads), draw(kv_heads), draw(kv_heads), draw(heads)


def dense(q, k, v, window, segments):
    """The definition, head by head in float64."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    i, j = np.indices((q.shape[1], q.shape[1]))
    out = np.empty_like(q)
    for b, n in np.ndindex(q.shape[0], q.shape[2]):
        same = segments[b][:, None] == segments[b][None, :]
        seen = (j <= i) & (j > i - (window or q.shape[1])) & same
        kv = n // (q.shape[2] // k.shape[2])
        weights = np.where(seen, np.exp(q[b, :, n] @ k[b, :, kv].T / 4), 0)
        out[b, :, n] = weights / weights.sum(axis=1, keepdims=True) @ v[b, :, kv]
    return out


@pytest.mark.parametrize("window", [None, 40])
@pytest.mark.parametrize(("heads", "kv_heads"), [(4, 2)])
def test_splash_attention_and_plain_products(window, heads, kv_heads):
    length = 270  # of three blocks; documents end within them and at their ends
    _, segments, _ = packed(0, length, [(100, 156, 10), (128, 128, 14)])
    *args, cotangent = qkv(length, heads, kv_heads)
    segments = jnp.asarray(segments)

    def with_gradient(run):
        out, vjp = jax.vjp(run, *args)
        return out, *vjp(cotangent)

    plain = with_gradient(lambda q, k, v: plain_attention(q, k, v, window, segments))
    expected = dense(*args, window, np.asarray(segments))
    np.testing.assert_allclose(plain[0], expected, atol=1e-5)
    splash = jax.jit(
        lambda: with_gradient(lambda q, k, v: splash_attention(q, k, v, window, segments, True))
    )()
    for ours, theirs in zip(splash, plain, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.skipif(len(jax.devices()) < 8, reason="needs eight devices")
def test_splash_attention_on_a_mesh():
    _, segments, _ = packed(0, 130, [(100, 20), (128, 2)])
    *args, _ = qkv(130, 4, 2)
    expected = dense(*args, None, segments)
    with use_mesh("data:2,tensor:2,fsdp:2"):
        run = jax.jit(lambda *a: splash_attention(*a, interpret=True))
        found = run(*args, None, jnp.asarray(segments))
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("window", [None, 5])
def test_cudnn_gets_a_mask_and_padded_windows(window, monkeypatch):
    real, seen = jax.nn.dot_product_attention, []

    def flash(q, k, v, *, mask, is_causal, local_window_size, implementation):
        assert implementation == "cudnn" and mask.shape == (2, 1, 64, 64)
        seen.append(mask)
        how = {"is_causal": is_causal, "local_window_size": local_window_size}
        return real(q, k, v, mask=mask, **how, implementation="xla")

    _, segments, _ = packed(0, 30, [(10, 13), (30,)])
    *args, _ = qkv(30, 4, 2)
    monkeypatch.setattr(jax.nn, "dot_product_attention", flash)
    found = attention.attend(*args, "cudnn", window, jnp.asarray(segments))
    assert len(seen) == 1
    np.testing.assert_allclose(found, dense(*args, window, segments), atol=1e-5)
