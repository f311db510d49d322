"""Narrowed models as Hugging Face checkpoints: smaller where they are even, padded where not."""

import json

import jax
import numpy as np
import pytest

from jprune.checkpoints import load, restore_orbax, save, save_orbax
from jprune.checkpoints.abstract import abstract_checkpoint
from jprune.checkpoints.hf_export import export_huggingface
from jprune.checkpoints.hf_import import import_huggingface
from jprune.core.errors import InputError
from jprune.llama import count_params, forward, stack, widths
from jprune.scores import choose_widths
from jprune.transforms import chain, drop_sublayers, narrow
from tests.checkpoints.test_orbax import identical
from tests.tiny import FAMILIES, family, windows
from tests.tiny import tiny as tiny_llama

IDS = windows(2, 12)
# Four key-value heads; 8 query heads divide the hidden size of 32, and so do 4, but not 6.
WIDE = {"num_attention_heads": 8, "num_key_value_heads": 4}
UNEVEN = narrow(heads=[[1, 3], [0], None], neurons=[None, [7, 2, 40], list(range(30))])
logits = jax.jit(forward)


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def even(neurons=20):
    """Two key-value heads and so many neurons of each of three blocks."""
    return narrow(heads=[[1, 3], [0, 2], [2, 3]], neurons=3 * [range(7, 7 + neurons)])


@pytest.mark.parametrize("name", FAMILIES)
def test_uneven_widths_are_padded_with_zeros(tmp_path, read, name):
    changes = {"attention_bias": True, "output_bias": True, "mlp_bias": True}
    llama = UNEVEN(family(name, **WIDE, **(changes if name == "llama" else {})))
    export_huggingface(tmp_path / "b", llama)
    again = import_huggingface(tmp_path / "b")
    assert widths(again) == 3 * ((4, 2, 56),)
    np.testing.assert_allclose(logits(again, IDS), logits(llama, IDS), atol=2e-5, rtol=0)
    found = read(tmp_path / "b")
    dim = llama.config.head_dim
    o = found["model.layers.1.self_attn.o_proj.weight"]
    assert o[:, : 2 * dim].any() and not o[:, 2 * dim :].any()
    for part, left in (("q", 2 * dim), ("k", dim), ("v", dim)):
        for kind in ("weight", "bias") if name in ("llama", "qwen2") else ("weight",):
            values = found[f"model.layers.1.self_attn.{part}_proj.{kind}"]
            assert values[:left].any() and not values[left:].any()
    assert not found["model.layers.2.mlp.down_proj.weight"][:, 30:].any()


@pytest.mark.parametrize("form", [lambda x: x, stack], ids=["tuple", "stacked"])
def test_padding_is_said_and_counted(tmp_path, caplog, form):
    llama = UNEVEN(family("llama", **WIDE))
    export_huggingface(tmp_path / "b", form(llama))
    said = "3 of 3 layers are padded with zeros to 8 heads and 56 neurons"
    zeros = count_params(import_huggingface(tmp_path / "b")) - count_params(llama)
    assert said in caplog.text and f"the {zeros:,} padded weights save nothing" in caplog.text
    card = (tmp_path / "b" / "README.md").read_text()
    assert "- layer 1 (layer 1 of tiny) has 2 of 8 heads and 3 of 56 neurons\n" in card
    assert "still take memory and time" in card


@pytest.mark.parametrize("name", ["llama", "qwen2", "gemma"])
def test_even_widths_make_a_smaller_stock_shape(tmp_path, read, caplog, name):
    llama = even()(family(name, **WIDE))
    export_huggingface(tmp_path / "b", llama, strict=True)
    values = config_of(tmp_path / "b")
    assert values["num_attention_heads"] == 4 and values["num_key_value_heads"] == 2
    assert values["intermediate_size"] == 20 and values["head_dim"] == llama.config.head_dim
    assert read(tmp_path / "b")["model.layers.2.mlp.up_proj.weight"].shape == (20, 32)
    assert "padded" not in caplog.text and "Padded" not in (tmp_path / "b/README.md").read_text()
    again = import_huggingface(tmp_path / "b")
    assert widths(again) == widths(llama)
    np.testing.assert_allclose(logits(again, IDS), logits(llama, IDS), atol=1e-6, rtol=0)


def test_head_dim_is_written_where_it_no_longer_follows(tmp_path, tiny, write):
    config, tensors = tiny()
    assert "head_dim" not in config  # 16 / 4 = 4
    llama = import_huggingface(write(tmp_path / "a", config, tensors))
    export_huggingface(tmp_path / "b", narrow(heads=3 * [[1]])(llama))
    values = config_of(tmp_path / "b")
    assert (values["num_attention_heads"], values["num_key_value_heads"]) == (2, 1)
    assert values["head_dim"] == 4 and "head_dim" not in config
    export_huggingface(tmp_path / "c", narrow(neurons=3 * [[1]])(llama))
    assert "head_dim" not in config_of(tmp_path / "c")


@pytest.mark.parametrize(("name", "heads"), [("llama", 8), ("mistral", 6)])
def test_a_number_of_heads_that_transformers_refuses_is_padded(tmp_path, caplog, name, heads):
    llama = narrow(heads=3 * [[0, 1, 3]])(family(name, **WIDE))
    export_huggingface(tmp_path / "b", llama)
    assert config_of(tmp_path / "b")["num_attention_heads"] == heads
    assert ("layers are padded with zeros to 8 heads" in caplog.text) == (name == "llama")
    again = import_huggingface(tmp_path / "b")
    np.testing.assert_allclose(logits(again, IDS), logits(llama, IDS), atol=2e-5, rtol=0)


def test_layers_are_counted_as_they_are_written(tmp_path, caplog):
    llama = family("llama", 4, **WIDE)
    step = chain(
        narrow(neurons=[None, None, [0], None]),
        drop_sublayers(attention=[0, 3], mlp=[0]),
    )
    export_huggingface(tmp_path / "b", step(llama))
    card = (tmp_path / "b" / "README.md").read_text()
    assert "- layer 1 (layer 2 of tiny) has 1 of 56 neurons" in card
    assert "- attention of layer 2 (layer 3 of tiny)" in card
    assert "1 of 3 layers are padded" in caplog.text


def test_strict_refuses_padding(tmp_path):
    with pytest.raises(InputError, match=r"layer 0 \(layer 0 of tiny\) has 4 of 8 heads, for one"):
        export_huggingface(tmp_path / "b", UNEVEN(family("llama", **WIDE)), strict=True)
    assert not list(tmp_path.iterdir())


def test_different_groups_have_no_form(tmp_path):
    other = tiny_llama(1, num_attention_heads=8, num_key_value_heads=8)
    llama = family("llama", **WIDE)
    mixed = llama.replace(blocks=(llama.blocks[0], other.blocks[0]))
    with pytest.raises(InputError, match=r"query heads per key-value head \(1, 2\).*Orbax"):
        export_huggingface(tmp_path / "b", mixed)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("form", [lambda x: x, stack], ids=["tuple", "stacked"])
def test_orbax_keeps_the_true_widths(tmp_path, form):
    llama = form(UNEVEN(family("qwen3", **WIDE)))
    save_orbax(tmp_path / "o", llama)
    identical(restore_orbax(tmp_path / "o", "checkpoint"), llama)
    assert widths(abstract_checkpoint(tmp_path / "o", "o")) == widths(llama)
    save(tmp_path / "s", llama)
    identical(load(tmp_path / "s"), llama)


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("kind", ["uneven", "even", "chosen", "refused"])
@pytest.mark.parity
def test_transformers_computes_the_same(tmp_path, name, kind):
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForCausalLM

    llama = family(name, **WIDE)
    if kind == "chosen":
        found = choose_widths(llama, IDS, density=[0.9, 0.2, 0.6], uniform=True, multiple=8)
        step = narrow(**found.to_json())
    else:
        step = {"uneven": UNEVEN, "even": even(), "refused": narrow(heads=3 * [[0, 1, 3]])}[kind]
    llama = step(llama)
    export_huggingface(tmp_path / "b", llama, strict=kind in ("even", "chosen"))
    model, report = AutoModelForCausalLM.from_pretrained(
        tmp_path / "b", output_loading_info=True, dtype=torch.float32
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    if kind in ("even", "chosen"):
        (width,) = set(widths(llama))
        assert model.config.num_key_value_heads == width.heads == 2
        assert model.config.num_attention_heads == 4
        assert model.config.intermediate_size == width.neurons < 56
    with torch.no_grad():
        theirs = model(torch.tensor(IDS, dtype=torch.long)).logits.numpy()
    np.testing.assert_allclose(theirs, logits(llama, IDS), atol=2e-4, rtol=0)
