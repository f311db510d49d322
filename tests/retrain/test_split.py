import jax
import numpy as np
import pytest

from jprune.core.errors import InputError
from jprune.llama import named_params, stack
from jprune.retrain import join, split
from tests.tiny import tiny


@pytest.mark.parametrize("form", [lambda llama: llama, stack])
def test_join_puts_back_what_split_took(form):
    llama = form(tiny(3))
    params, rest = split(llama, "**.mlp.**")
    assert {name.split(".")[-2] for name in params} == {"gate_proj", "up_proj", "down_proj"}
    assert params.keys().isdisjoint(rest.frozen)
    again = join(params, rest)
    assert jax.tree.structure(again) == jax.tree.structure(llama)
    for ours, theirs in zip(jax.tree.leaves(again), jax.tree.leaves(llama), strict=True):
        assert ours is theirs


def test_split_takes_patterns_and_predicates():
    llama = tiny(3)
    everything, rest = split(llama)
    assert everything.keys() == named_params(llama).keys()
    assert rest.frozen == {}
    chosen, _ = split(llama, ["layers.2.*.weight", "lm_head.**"])
    assert sorted(chosen) == [
        "layers.2.input_layernorm.weight",
        "layers.2.post_attention_layernorm.weight",
        "lm_head.kernel",
    ]
    same, _ = split(llama, lambda name: name in chosen)
    assert same.keys() == chosen.keys()


def test_changed_parameters_arrive_in_their_places():
    llama = tiny(2)
    params, rest = split(llama, "layers.1.self_attn.q_proj.kernel")
    (name, value) = params.popitem()
    changed = join({name: value + 1}, rest)
    np.testing.assert_array_equal(changed.blocks[1].attn.q.kernel, value + 1)
    assert changed.blocks[0].attn.q.kernel is llama.blocks[0].attn.q.kernel


def test_a_pattern_that_matches_nothing_is_an_error():
    with pytest.raises(InputError, match=r"no parameter matches 'layers\.9\.\*\*'.*embed_tokens"):
        split(tiny(1), "layers.9.**")
