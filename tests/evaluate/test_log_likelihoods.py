"""Log-likelihoods against a forward pass for each request by itself."""

import importlib
import logging

import jax
import numpy as np
import pytest

from jprune.core.errors import InputError
from jprune.core.mesh import use_mesh
from jprune.evaluate import Request, log_likelihoods, packing
from jprune.llama import forward, stack
from tests.tiny import family, tiny

module = importlib.import_module("jprune.evaluate.log_likelihoods")
LONGEST = 64  # what tiny models read
logits = jax.jit(forward)


def expected(llama, request, longest=LONGEST):
    """In NumPy from the logits of the sequence alone, which a causal mask lets us fill up."""
    ids = [*request.context, *request.continuation][-(longest + 1) :]
    filled = np.zeros((1, LONGEST), np.int32)
    filled[0, : len(ids) - 1] = ids[:-1]
    rows = np.asarray(logits(llama, filled), np.float64)[0]
    count = len(request.continuation)
    rows = rows[len(ids) - 1 - count : len(ids) - 1]
    norm = np.log(np.exp(rows - rows.max(axis=-1, keepdims=True)).sum(axis=-1)) + rows.max(axis=-1)
    picked = rows[np.arange(count), list(request.continuation)]
    return float((picked - norm).sum()), bool((rows.argmax(axis=-1) == request.continuation).all())


def compare(llama, requests, longest=LONGEST, **kwargs):
    found = log_likelihoods(llama, requests, **kwargs)
    wanted = [expected(llama, request, longest) for request in requests]
    np.testing.assert_allclose(found.values, [value for value, _ in wanted], atol=2e-4, rtol=1e-5)
    assert found.greedy.tolist() == [greedy for _, greedy in wanted]
    return found


def questions(count, seed=0, vocab=97):
    """Requests of several choices each, which begin alike more or less far."""
    rng = np.random.default_rng(seed)

    def ids(low, high):
        return tuple(rng.integers(0, vocab, rng.integers(low, high)).tolist())

    found = []
    for _ in range(count):
        context, common = ids(1, 30), ids(0, 5)
        for _ in range(rng.integers(1, 5)):
            found.append(Request(context, (*common, *ids(1, 20))))
    return found


@pytest.fixture(scope="module")
def llama():
    return tiny(2)


def test_several_choices_in_several_batches(llama, caplog):
    requests = questions(40)
    found = compare(llama, requests)
    assert len(found.values) == len(requests) and (found.values < -1).all()
    rows = packing.pack(packing.groups(requests, list(range(len(requests)))), [256])
    sizes = [len(batch.tokens) for batch in module._batches(llama.config, rows[0])]
    assert len(sizes) > 1 and sum(sizes) > len(rows[0].tokens)  # the last is filled up
    assert max((rows[0].requests >= 0).sum(axis=1)) > module.TARGETS_PER_STEP


def test_greedy_continuations(llama):
    context, greedy = [5, 6, 7], []
    for _ in range(4):
        ids = np.zeros((1, LONGEST), np.int32)
        ids[0, : 3 + len(greedy)] = context + greedy
        greedy.append(int(logits(llama, ids)[0, 2 + len(greedy)].argmax()))
    other = [(greedy[-1] + 1) % 97]
    requests = [Request(tuple(context), tuple(c)) for c in (greedy, greedy[:2], greedy[:3] + other)]
    assert compare(llama, requests).greedy.tolist() == [True, True, False]


@pytest.mark.parametrize("name", ["mistral", "qwen2", "qwen3", "gemma"])
def test_families(name):
    # Mistral's window of 5 tokens is shorter than every context.
    compare(family(name, 2), questions(6))


def test_forms_of_a_model(llama):
    requests = questions(5)
    plain = log_likelihoods(llama, requests).values
    host = jax.tree.map(np.asarray, llama)
    without = llama.replace(blocks=(llama.blocks[0].replace(attn=None, attn_norm=None),))
    np.testing.assert_allclose(log_likelihoods(stack(llama), requests).values, plain, atol=1e-4)
    np.testing.assert_allclose(log_likelihoods(host, requests).values, plain, atol=1e-4)
    compare(without, requests)


def test_mesh(llama):
    requests = questions(24)
    plain = log_likelihoods(llama, requests).values
    with use_mesh("data:2,fsdp:2,tensor:2"):
        split = log_likelihoods(jax.tree.map(np.asarray, llama), requests)
    np.testing.assert_allclose(split.values, plain, atol=1e-3)


def test_keys_say_what_runs_together(llama):
    requests = questions(6)
    plain = log_likelihoods(llama, requests).values
    for keys in ([0] * len(requests), range(len(requests))):
        found = log_likelihoods(llama, requests, list(keys))
        np.testing.assert_allclose(found.values, plain, atol=2e-4)


def test_edges(llama):
    one = Request((3,), (4,))
    compare(llama, [one])
    # The same twice, next to one that it begins with and one without a continuation.
    compare(llama, [one, one, Request((3,), (4, 5)), Request((3,), ()), Request((8, 3), (4,))])
    none = log_likelihoods(llama, [Request((3,), ())])
    assert none.values.tolist() == [0.0] and none.greedy.tolist() == [True]
    assert log_likelihoods(llama, []).values.shape == (0,)


def test_too_long_texts_lose_their_beginnings(llama, caplog):
    rng = np.random.default_rng(3)
    context = tuple(rng.integers(0, 97, 70).tolist())
    choices = [tuple(rng.integers(0, 97, n).tolist()) for n in (1, 4, 64)]
    with caplog.at_level(logging.WARNING, "jprune"):
        compare(llama, [Request(context, choice) for choice in choices], keys=[0, 0, 0])
    assert "3 of 3 texts are longer than the 64 tokens that the model reads" in caplog.text
    # Exactly as long as the model reads: the last token is only predicted.
    caplog.clear()
    compare(llama, [Request(context[:60], (1, 2, 3, 4, 5))])
    assert not caplog.text
    compare(llama, [Request(context[:20], (1, 2))], longest=8, max_length=8)


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (Request((), (1,)), "request 1 has no context; begin it with BOS or some text"),
        (
            Request((1,), (2,) * 65),
            "the continuation of request 1 has 65 tokens, but the model reads 64; shorten it",
        ),
        (Request((1, 97), (2,)), "token id 97 of the data is outside the model's vocabulary of 97"),
        (Request((1,), (98,)), "token id 98 of the data is outside the model's vocabulary of 97"),
    ],
)
def test_messages(llama, request_, message):
    with pytest.raises(InputError) as caught:
        log_likelihoods(llama, [Request((1,), (2,)), request_])
    assert str(caught.value).startswith(message)


def test_row_lengths():
    assert module.row_lengths(1) == [256]
    assert module.row_lengths(256) == [256]
    assert module.row_lengths(257) == [256, 384]
    assert module.row_lengths(1100) == [256, 384, 512, 768, 1024, 1536]
