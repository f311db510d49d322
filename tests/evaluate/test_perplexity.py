import json
import logging
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jprune.checkpoints import load
from jprune.core import InputError
from jprune.evaluate import (
    PROTOCOLS,
    Protocol,
    evaluate_sets,
    evaluate_sources,
    evaluation_sets,
    perplexity,
    preset,
    summarise,
    window_nll,
)
from jprune.evaluate.batches import window_batch_size
from jprune.llama import blockwise
from jprune.llama.blockwise import advance, nll_sums, start
from jprune.llama.config import LlamaConfig
from jprune.llama.forward import forward
from jprune.llama.params import init
from jprune.llama.stack import stack

CONFIG = LlamaConfig(
    vocab_size=37,
    hidden_size=16,
    intermediate_size=24,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=4,
    max_position_embeddings=64,
)


@pytest.fixture(scope="module")
def llama():
    """A model whose predictions are far from uniform."""
    model = init(CONFIG, 3, jax.random.key(0))
    return model.replace(
        embed=model.embed * 50, lm_head=jax.tree.map(lambda w: w * 40, model.lm_head)
    )


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(0).integers(0, 37, (7, 12), dtype=np.int32)


def nll_by_hand(llama, ids) -> np.ndarray:
    """-log softmax of the logits at the next token, in float64: [windows, length - 1]."""
    logits = np.asarray(forward(llama, jnp.asarray(ids)), np.float64)[:, :-1]
    shifted = logits - logits.max(-1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return -np.take_along_axis(log_p, ids[:, 1:, None], -1)[..., 0]


class Words:
    """One token per word, the number it spells."""

    def __init__(self, bos_token_id=1):
        self.bos_token_id = bos_token_id

    def encode(self, text, add_special_tokens=True):
        return [int(word) for word in text.split()]


def test_perplexity_is_exp_of_the_mean_over_all_predicted_tokens(llama, ids):
    nll = nll_by_hand(llama, ids)
    assert nll.std() > 1  # else a wrong token would go unnoticed
    result = perplexity(llama, ids)
    assert result.nll == pytest.approx(nll.mean(), rel=1e-6)
    assert result.ppl == pytest.approx(math.exp(nll.mean()), rel=1e-5)
    np.testing.assert_allclose(result.window_nll, nll.mean(1), rtol=1e-6)
    spread = nll.mean(1).std(ddof=1) / math.sqrt(7)
    assert result.standard_error == pytest.approx(spread, rel=1e-5)
    assert result.tokens == 77
    assert result.window_nll.dtype == np.float64


def test_every_batch_size_gives_the_same(llama, ids):
    expected = nll_by_hand(llama, ids).mean(1)
    for batch_size in range(1, 9):  # 7 windows: every remainder, and more than there are
        np.testing.assert_allclose(window_nll(llama, ids, batch_size), expected, rtol=1e-6)


def test_stacked_and_tuple_forms_agree(llama, ids):
    stacked = stack(llama)
    np.testing.assert_allclose(window_nll(stacked, ids), nll_by_hand(llama, ids).mean(1), rtol=1e-6)
    without_mlp = llama.replace(
        blocks=(llama.blocks[0].replace(mlp=None, mlp_norm=None), *llama.blocks[1:])
    )
    np.testing.assert_allclose(
        window_nll(without_mlp, ids), nll_by_hand(without_mlp, ids).mean(1), rtol=1e-6
    )


def test_models_of_numpy_arrays(llama, ids):
    plain = jax.tree.map(np.asarray, llama)
    np.testing.assert_allclose(window_nll(plain, ids), window_nll(llama, ids), rtol=1e-6)


def test_one_program_serves_all_batches_and_all_models_of_a_structure(llama, ids):
    programs = (start, advance, nll_sums)
    for program in programs:
        program.clear_cache()
    window_nll(llama, ids, 2)
    first, second, third = llama.blocks
    for blocks in ((first, third), (third, second), (second,)):
        window_nll(llama.replace(blocks=blocks), ids, 2)
    assert [program._cache_size() for program in programs] == [1, 1, 1]


def test_batches_are_even():
    size = window_batch_size((33, 128))
    batches = -(-33 // size)
    assert batches * size - 33 < batches
    assert window_batch_size((3, 10**6)) == 1
    assert window_batch_size((3, 16)) == 3


def test_nan_is_reported_not_hidden(llama, ids, caplog):
    broken = llama.replace(embed=llama.embed.at[ids[2, 3]].set(jnp.nan))
    hit = (ids == ids[2, 3])[:, :-1].any(1)  # the last token of a window is only predicted
    assert 0 < hit.sum() < 7
    with caplog.at_level(logging.WARNING, "jprune"):
        result = perplexity(broken, ids, 4)
    np.testing.assert_array_equal(np.isnan(result.window_nll), hit)
    assert math.isnan(result.ppl) and math.isnan(result.nll)
    assert f"{hit.sum()} of 7 windows have a NLL that is not finite" in caplog.text


def test_summary_of_hand_made_windows():
    result = summarise(np.array([1.0, 2.0, 6.0]), 10)
    assert (result.nll, result.tokens) == (3.0, 30)
    assert result.ppl == pytest.approx(20.085536923)
    assert result.standard_error == pytest.approx(math.sqrt(7) / math.sqrt(3))
    assert math.isnan(summarise(np.array([1.0]), 10).standard_error)
    assert summarise(np.array([2000.0, 2000.0]), 10).ppl == math.inf


def test_errors(llama, ids):
    with pytest.raises(InputError, match="token id 37 .* vocabulary of 37"):
        perplexity(llama, np.full((1, 4), 37))
    with pytest.raises(InputError, match="at least 2 tokens"):
        perplexity(llama, ids[:, :1])
    with pytest.raises(InputError, match="at least one window"):
        perplexity(llama, ids[:0])
    with pytest.raises(InputError, match="did you mean 'gptq'"):
        preset("gpt", CONFIG)


def test_windows_longer_than_the_model_are_mentioned(llama, caplog):
    with caplog.at_level(logging.WARNING, "jprune"):
        perplexity(llama, np.ones((1, 65), np.int32))
    assert "65 tokens are longer than the model's 64" in caplog.text


def test_presets():
    assert PROTOCOLS["shortened"] == Protocol(window_length=128, join="\n\n", bos="first")
    assert PROTOCOLS["gptq"] == Protocol(window_length=2048, join="\n\n", bos="first")
    assert preset("gptq", CONFIG).window_length == 64
    large = LlamaConfig(**{**CONFIG.__dict__, "max_position_embeddings": 4096})
    assert preset("gptq", large).window_length == 2048
    assert preset("shortened", large).window_length == 128


def test_evaluate_sources_end_to_end(llama, tmp_path):
    numbers = np.random.default_rng(1).integers(0, 37, 200)
    text = tmp_path / "a.txt"
    text.write_text(" ".join(map(str, numbers)))
    windows = np.random.default_rng(2).integers(0, 37, (3, 9))
    np.savez(tmp_path / "w.npz", ids=windows)
    sources = [str(text), f"{tmp_path}/w.npz:ids"]
    (p1, r1), (p2, r2) = evaluate_sources(llama, Words(), sources, "gptq", max_windows=256)

    expected = np.concatenate([[1], numbers])[:192].reshape(3, 64)
    assert r1.nll == pytest.approx(nll_by_hand(llama, expected).mean(), rel=1e-6)
    assert r2.nll == pytest.approx(nll_by_hand(llama, windows).mean(), rel=1e-6)
    written = json.loads(json.dumps(r1.to_json(p1)))
    assert set(written) == {"data", "ppl", "nll", "standard_error", "tokens", "protocol"}
    assert written["data"] == str(text) and written["tokens"] == 189
    assert written["protocol"] == {
        "data": str(text),
        "split": None,
        "join": "\n\n",
        "window_length": 64,
        "num_windows": 3,
        "bos": "first",
        "dtype": "float32",
        "tokens": 189,
        "normaliser": "token",
    }
    assert (p2.window_length, p2.num_windows, p2.join, p2.bos) == (9, 3, None, None)
    assert (p2.tokens, p2.dtype) == (24, "float32")


def test_evaluation_sets_without_bos_and_with_known_names(llama, tmp_path):
    (tmp_path / "wikitext2.test.raw").write_text("5 " * 100)
    protocol = Protocol(window_length=10)
    [one] = evaluation_sets(["wikitext2"], Words(None), protocol, 2, str(tmp_path))
    np.testing.assert_array_equal(one.ids, np.full((2, 10), 5))
    assert (one.protocol.bos, one.protocol.split, one.protocol.data) == (
        "none",
        "test",
        "wikitext2",
    )
    with pytest.raises(InputError, match="holds 10 of 10 tokens, 11 wanted"):
        evaluation_sets(["wikitext2"], Words(), protocol, 11, str(tmp_path))


def test_vocabulary_is_checked_before_anything_is_run(llama, tmp_path):
    np.savez(tmp_path / "w.npz", ids=np.array([[1, 99]]))
    sets = evaluation_sets([f"{tmp_path}/w.npz:ids"], None, Protocol())
    with pytest.raises(InputError, match=r"token id 99 of .*w\.npz:ids is outside"):
        evaluate_sets(llama, sets)


@pytest.mark.parametrize("length", [128, 512])
def test_reference_perplexity(shared, length):
    reference = json.loads((shared / "goldens" / "llama-16m.json").read_text())["ppl"]
    source = f"{shared}/goldens/llama-16m.npz:eval_{length}"
    model = load(shared / "models" / "llama-16m", "float32")
    [(protocol, result)] = evaluate_sources(model, None, [source])
    assert result.ppl == pytest.approx(reference[f"w{length}"], rel=1e-4)
    assert protocol.window_length == length


@pytest.mark.parametrize("form", [lambda llama: llama, stack], ids=["tuple", "stack"])
def test_a_model_on_the_host(llama, ids, form):
    expected = perplexity(form(llama), ids, batch_size=3)
    found = perplexity(jax.tree.map(np.array, form(llama)), ids, batch_size=3)
    np.testing.assert_array_equal(found.window_nll, expected.window_nll)


def test_two_blocks_of_a_model_on_the_host_are_on_the_device(llama, ids, monkeypatch):
    away = jax.tree.map(np.array, init(CONFIG, 6, jax.random.key(1)))
    shape = away.blocks[0].mlp.down.kernel.shape
    held = lambda: sum(array.shape == shape for array in jax.live_arrays())  # noqa: E731
    before, seen = held(), []

    def watched(*args):
        seen.append(held() - before)
        return advance(*args)

    monkeypatch.setattr(blockwise, "advance", watched)
    perplexity(away, ids)
    assert len(seen) == 6 and max(seen) == 2 and held() == before
