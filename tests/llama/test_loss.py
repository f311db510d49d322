"""Chunked NLL against the whole log-softmax."""

import jax
import numpy as np
import pytest

from jprune.llama import forward, loss, next_token_nll
from tests.tiny import tiny, windows


def whole(llama, ids):
    logits = np.asarray(forward(llama, ids), np.float64)[:, :-1]
    top = logits.max(-1, keepdims=True)
    log_z = (top + np.log(np.exp(logits - top).sum(-1, keepdims=True)))[..., 0]
    return log_z - np.take_along_axis(logits, ids[:, 1:, None].astype(int), -1)[..., 0]


# 97 tokens of vocabulary: all 33 rows at a time, 2 chunks of 17 and 16, 33 of one row.
@pytest.mark.parametrize("limit", [2**25, 97 * 20, 97])
def test_every_chunking_gives_the_same(limit, monkeypatch):
    monkeypatch.setattr(loss, "MAX_LOGITS", limit)
    llama, ids = tiny(1), windows(3, 12)
    nll = jax.jit(lambda llama, ids: next_token_nll(llama, ids))(llama, ids)
    assert nll.shape == (3, 11) and nll.dtype == np.float32
    np.testing.assert_allclose(nll, whole(llama, ids), atol=2e-5, rtol=0)


def test_gradients_do_not_depend_on_chunks(monkeypatch):
    llama, ids = tiny(1), windows(2, 12)
    grads = []
    for limit in (2**25, 97 * 5):
        monkeypatch.setattr(loss, "MAX_LOGITS", limit)
        grad = jax.jit(jax.grad(lambda llama, ids: next_token_nll(llama, ids).mean()))
        grads.append(grad(llama, ids))
    for a, b in zip(*map(jax.tree.leaves, grads), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
