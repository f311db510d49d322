"""Where models are merged: layers, ranges, ends; values for each layer; common vocabularies."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from jprune.core.errors import InputError
from jprune.llama import named_params
from jprune.transforms import merge_models
from tests.llama.test_stack import same
from tests.tiny import family, finetunes
from tests.transforms.merging import (
    BASE,
    CHAT,
    CODE,
    ENDS,
    MATH,
    VARIANTS,
    merged,
    places,
)


def test_layers_outside_are_those_of_the_base():
    found = merged("task_arithmetic", layers="1-2")
    assert places(found, BASE) == {1, 2}
    whole = merged("task_arithmetic")
    assert places(found, whole) == {0, 3, "ends"}
    assert found.blocks[0].attn.q.kernel is BASE.blocks[0].attn.q.kernel
    assert places(merged("task_arithmetic", layers=[3]), BASE) == {3}
    assert places(merged("task_arithmetic", layers=-1), BASE) == {3}
    # Without a base, those of the first.
    assert places(merge_models([MATH, CODE], "linear", layers=[0]), MATH) == {0}


def test_embeddings_final_norm_and_head():
    assert places(merged("ties"), BASE) == {0, 1, 2, 3, "ends"}
    assert places(merged("ties", ends="base"), BASE) == {0, 1, 2, 3}
    assert places(merged("ties", layers=[1], ends="merge"), BASE) == {1, "ends"}
    found = named_params(merged("task_arithmetic"))
    models = [named_params(m) for m in (BASE, *VARIANTS)]
    for name in ENDS:
        base, *others = (np.asarray(m[name], np.float64) for m in models)
        expected = base + 0.4 * sum(x - base for x in others)
        np.testing.assert_allclose(found[name], expected, atol=1e-6)


def test_a_method_for_each_range():
    found = merge_models(
        VARIANTS,
        "task_arithmetic",
        base=BASE,
        factor=0.4,
        layers=[
            {"layers": [0], "factor": 0.2},
            {"layers": "1", "method": "linear", "weights": [3, 2, 1]},
            {"layers": "-1"},
        ],
    )
    expected = {
        0: merged("task_arithmetic", factor=0.2),
        1: merged("linear"),
        2: BASE,
        3: merged("task_arithmetic"),
    }
    for layer, model in expected.items():
        same(found.blocks[layer].replace(origin=None), model.blocks[layer].replace(origin=None))
    assert places(found, BASE) == {0, 1, 3}
    only = merge_models(VARIANTS, None, layers=[{"layers": "2-3", "method": "linear"}])
    assert places(only, MATH) == {2, 3}


def test_values_for_each_layer():
    factors = [0.0, 0.3, 0.6, 1.0]
    found = merged("task_arithmetic", factor=factors, ends="base")
    for layer, factor in enumerate(factors):
        same(found.blocks[layer], merged("task_arithmetic", factor=factor).blocks[layer])
    assert places(found, BASE) == {1, 2, 3}
    weights = [[1, 0, 0], [0, 0, 1]]
    found = merged("linear", weights=weights, layers="1,3")
    np.testing.assert_array_equal(found.blocks[1].mlp_norm, MATH.blocks[1].mlp_norm)
    np.testing.assert_array_equal(found.blocks[3].mlp_norm, CHAT.blocks[3].mlp_norm)
    assert places(found, BASE) == {1, 3}


def test_dare_draws_by_the_name_of_the_tensor_and_the_seed():
    one = named_params(merged("dare"))
    other = named_params(merged("dare", seed=4))
    base = named_params(BASE)
    q, k = ("layers.0.mlp.gate_proj.kernel", "layers.0.mlp.up_proj.kernel")
    assert (np.asarray(one[q]) != np.asarray(other[q])).mean() > 0.3
    kept = [np.asarray(one[name]) != np.asarray(base[name]) for name in (q, k)]
    assert (kept[0] != kept[1]).any()
    # Layer 1 alone has the numbers that it has among all.
    alone = merged("dare", layers=[1])
    same(alone.blocks[1], merged("dare").blocks[1])


def test_the_users_own_method(tmp_path, monkeypatch):
    (tmp_path / "own_merge.py").write_text(
        "def lopsided(base, variants, share=0.5, rows=()):\n"
        "    assert base is None or base.dtype == 'float32'\n"
        "    lead = variants[0]\n"
        "    return lead + share * (variants[-1] - lead) + (lead.shape[0] in rows)\n"
        "def short(base, variants):\n"
        "    return variants[0][:1]\n"
    )
    monkeypatch.chdir(tmp_path)
    found = merge_models([MATH, CODE], "own_merge:lopsided", base=BASE, share=0.25, rows=[16])
    shares = named_params(merge_models([MATH, CODE], "linear", weights=[3, 1]))
    for name, value in named_params(found).items():
        # [out, in] has 16 rows in k and v alone.
        added = name.endswith(("k_proj.kernel", "v_proj.kernel"))
        np.testing.assert_allclose(value, shares[name] + added, atol=1e-6)
    with pytest.raises(
        InputError, match=r"own_merge:short should give an array of shape \[32\] for layers.0.inp"
    ):
        merge_models([MATH, CODE], "own_merge:short")
    with pytest.raises(InputError, match="no function longer"):
        merge_models([MATH, CODE], "own_merge:longer")


def test_the_common_vocabulary(tmp_path):
    def with_tokens(llama, number):
        config = dataclasses.replace(llama.config, vocab_size=97 + number)
        rows = jnp.full((number, 32), 9.0)
        head = llama.lm_head.replace(kernel=jnp.pad(llama.lm_head.kernel, [(0, 0), (0, number)]))
        embed = jnp.concatenate([llama.embed, rows])
        return llama.replace(config=config, embed=embed, lm_head=head)

    expected = merged("ties")
    wide = [with_tokens(model, number) for number, model in enumerate(VARIANTS)]
    with pytest.raises(InputError, match="tiny and code differ in vocabulary size: 97 and 98; --v"):
        merged("ties", wide)
    same(merged("ties", wide, vocab="intersect"), expected)
    same(merged("ties", VARIANTS, with_tokens(BASE, 5), vocab="intersect"), expected)
    config = merged("ties", VARIANTS, with_tokens(BASE, 5), vocab="intersect").config
    assert config.vocab_size == 97
    tied = [family("gemma"), *finetunes(family("gemma"), "a")]
    shorter = tied[1].replace(embed=tied[1].embed[:90])
    found = merge_models([tied[0], shorter], "linear", vocab="intersect")
    assert found.embed.shape == (90, 32) and found.lm_head is None
    with pytest.raises(InputError, match="'intersct'; did you mean 'intersect'"):
        merged("ties", vocab="intersct")
