"""Models that do not fit together are told apart by what differs, with both values."""

import dataclasses
import logging

import jax
import pytest

from jprune.core.errors import InputError
from jprune.llama import stack
from jprune.transforms import check_mergeable, drop_blocks, drop_sublayers, narrow
from tests.tiny import ROPES, family, finetunes, tiny

BASE = tiny(3)
LLAMA3 = ROPES["llama3"]


def of_config(**changes):
    return BASE.replace(config=dataclasses.replace(BASE.config, **changes))


DIFFERENT = {
    "family": (family("qwen2"), "family: llama and qwen2; only models of one shape"),
    "vocabulary": (
        tiny(3, vocab_size=99),
        "vocabulary size: 97 and 99; --vocab=intersect crops all to the tokens that they begin",
    ),
    "layers": (tiny(4), "number of layers: 3 and 4"),
    "hidden size": (tiny(3, hidden_size=40), "hidden size: 32 and 40"),
    "head dimension": (tiny(3, head_dim=16), "head dimension: 8 and 16"),
    "heads": (
        tiny(3, num_attention_heads=6),
        "attention heads of layer 0: 4 and 6",
    ),
    "key-value heads": (
        tiny(3, num_key_value_heads=4),
        "key-value heads of layer 0: 2 and 4",
    ),
    "neurons": (tiny(3, intermediate_size=48), "neurons of layer 0: 56 and 48"),
    "narrow": (narrow(neurons=[None, None, [0, 1]])(BASE), "neurons of layer 2: 56 and 2"),
    "theta": (of_config(rope=ROPES["theta"]), "RoPE theta: 10000.0 and 500000.0"),
    "linear": (of_config(rope=ROPES["linear"]), "RoPE scaling: none and linear with factor 4.0"),
    "tied": (tiny(3, tie_word_embeddings=True), "tied embeddings: no and yes"),
    "window": (of_config(sliding_window=5), "sliding window: None and 5"),
    "activation": (of_config(hidden_act="gelu_pytorch_tanh"), "activation: silu and gelu_py"),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_what_differs(what):
    other, message = DIFFERENT[what]
    for form in (lambda x: x, stack, lambda x: jax.eval_shape(stack, x)):
        with pytest.raises(InputError, match=f"^base and code differ in {message}"):
            check_mergeable(["base", "math", "code"], [BASE, BASE, form(other)])


def test_scaling_of_long_contexts():
    models = [of_config(rope=dataclasses.replace(LLAMA3, factor=factor)) for factor in (8.0, 32.0)]
    with pytest.raises(InputError, match="llama3 with factor 8.0, low.* and llama3 with factor 32"):
        check_mergeable(["a", "b"], models)


def test_what_is_missing():
    cut = drop_sublayers(attention=[1])(BASE)
    name = "layers.1.input_layernorm.weight"
    with pytest.raises(InputError, match=f"a has {name}, which b does not have; only models"):
        check_mergeable(["a", "b"], [BASE, cut])
    with pytest.raises(InputError, match=f"b has {name}, which a does not have"):
        check_mergeable(["a", "b"], [cut, BASE])


def test_another_epsilon_is_no_error_but_is_told(caplog):
    with caplog.at_level(logging.WARNING):
        check_mergeable(["a", "b"], [BASE, of_config(rms_norm_eps=1e-5)])
    assert "a and b differ in the epsilon of their norms: 1e-06 and 1e-05" in caplog.text


def test_models_that_fit():
    longer = of_config(max_position_embeddings=128, source="{}", bos_token_id=None)
    check_mergeable(["a", "b", "c"], [BASE, stack(finetunes(BASE, "b")[0]), longer])
    check_mergeable(["a", "b"], [BASE, tiny(3, vocab_size=99)], vocab="intersect")
    check_mergeable([], [])
    cut = drop_blocks([1])
    check_mergeable(["a", "b"], [cut(BASE), cut(finetunes(BASE, "b")[0])])
