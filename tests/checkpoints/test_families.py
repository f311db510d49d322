"""Every family against transformers, and what their files say against what is made of it."""

import json

import jax
import numpy as np
import pytest

from jprune.checkpoints import export_huggingface, load, save
from jprune.checkpoints.hf_config import parse_config
from jprune.checkpoints.safetensors_io import read_headers, read_tensor
from jprune.core import InputError
from jprune.evaluate import preset
from jprune.evaluate.candidates import candidate_nll
from jprune.llama import Linear, forward, next_token_nll, run_plan, stack, unstack, virtual
from jprune.llama.forward import context, embed, unembed
from jprune.scores import score, units
from jprune.scores.perplexity import without
from jprune.transforms import drop_blocks, drop_units
from tests.tiny import FAMILIES, family, windows

logits = jax.jit(forward)
every_family = pytest.mark.parametrize("name", FAMILIES)


def transformers_model(folder):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model, report = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


def their_logits(model, ids):
    import torch

    with torch.no_grad():
        return model(torch.tensor(ids, dtype=torch.long)).logits.numpy()


@pytest.mark.parity
@every_family
def test_logits(name, tmp_path):
    """As exported, and without a block: taken out by us and, apart from us, by hand."""
    llama, ids = family(name), windows(2, 24)
    export_huggingface(tmp_path / "whole", llama)
    model = transformers_model(tmp_path / "whole")
    np.testing.assert_allclose(logits(llama, ids), their_logits(model, ids), atol=2e-4)
    np.testing.assert_allclose(
        logits(load(tmp_path / "whole"), ids), their_logits(model, ids), atol=2e-4
    )

    del model.model.layers[1]
    model.config.num_hidden_layers -= 1
    for index, layer in enumerate(model.model.layers):
        layer.self_attn.layer_idx = index
    pruned = drop_blocks([1])(llama)
    np.testing.assert_allclose(logits(pruned, ids), their_logits(model, ids), atol=2e-4)
    export_huggingface(tmp_path / "pruned", pruned)
    again = transformers_model(tmp_path / "pruned")
    np.testing.assert_allclose(logits(pruned, ids), their_logits(again, ids), atol=2e-4)


@pytest.mark.parity
@every_family
def test_checkpoints_of_transformers(name, tmp_path):
    """Written by transformers itself: sharded, tied, of several dtypes, with its own keys."""
    torch = pytest.importorskip("torch")
    tied = name in ("gemma", "qwen2")
    export_huggingface(tmp_path / "ours", family(name, tie_word_embeddings=tied))
    model = transformers_model(tmp_path / "ours")
    model.model.layers[0].mlp.to(torch.bfloat16)
    model.model.layers[1].self_attn.to(torch.float16)
    model.save_pretrained(tmp_path / "theirs", max_shard_size="20KB")
    assert len(list((tmp_path / "theirs").glob("model-*.safetensors"))) > 2
    stored = {tensor.dtype for tensor in read_headers(tmp_path / "theirs").values()}
    assert stored == {"F32", "BF16", "F16"}
    llama, ids = load(tmp_path / "theirs", dtype="float32"), windows(2, 24)
    assert (llama.lm_head is None) == tied
    reference = transformers_model(tmp_path / "theirs")
    np.testing.assert_allclose(logits(llama, ids), their_logits(reference, ids), atol=2e-4)


@every_family
def test_every_form_computes_the_same(name, tmp_path):
    llama, ids = family(name), windows(2, 24)
    expected = logits(llama, ids)
    np.testing.assert_allclose(logits(stack(llama), ids), expected, atol=1e-5)
    export_huggingface(tmp_path / "hf", llama)
    save(tmp_path / "orbax", llama)
    for form in ("hf", "orbax"):
        again = load(tmp_path / form)
        jax.tree.map(
            np.testing.assert_array_equal,
            unstack(again),
            llama.replace(
                config=again.config,
                blocks=tuple(
                    block.replace(origin=other.origin)
                    for block, other in zip(llama.blocks, again.blocks, strict=True)
                ),
            ),
        )
        np.testing.assert_allclose(logits(again, ids), expected, atol=1e-6)


@every_family
def test_import_then_export_is_bit_identical(name, tmp_path):
    export_huggingface(tmp_path / "a", family(name))
    export_huggingface(tmp_path / "b", load(tmp_path / "a"))
    for file in ("model.safetensors", "config.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@every_family
def test_candidates_are_what_materialising_gives(name):
    llama, ids = family(name), windows(3, 24)
    removals = units(llama, "sublayer")
    gates = np.stack([without(np.ones((3, 2), bool), [unit]) for unit in removals])
    found = candidate_nll(llama, gates, ids)
    for unit, nll in zip(removals, found, strict=True):
        expected = next_token_nll(drop_units([unit])(llama), ids).mean(axis=1)
        np.testing.assert_allclose(nll, expected, atol=1e-5, err_msg=str(unit))


@every_family
def test_every_number_of_a_block_counts(name):
    """Magnitude with p = 1 is the sum over all arrays, norms of q and k and biases included."""
    llama = family(name)
    scores = score(llama, "magnitude").scores
    for value, block in zip(scores, llama.blocks, strict=True):
        expected = sum(float(np.abs(leaf).sum(dtype=np.float64)) for leaf in jax.tree.leaves(block))
        assert value == pytest.approx(expected, rel=1e-5)


def test_a_virtual_model_with_missing_parts():
    """Zeros stand for what a virtual model lacks, also where q and k have norms."""
    llama, ids = drop_units([(1, "attention")])(family("qwen3")), windows(2, 16)
    stacked, plan = virtual(llama)
    ctx = context(stacked.config, ids.shape[1])
    h = run_plan(stacked, plan, embed(stacked, ids), ctx)
    np.testing.assert_allclose(unembed(stacked, h), logits(llama, ids), atol=1e-5)


def test_norms_start_neutral():
    from jprune.llama import init

    gemma = init(family("gemma").config, 1, jax.random.key(0))
    assert float(np.abs(gemma.final_norm).max()) == 0  # 1 is added
    assert float(np.abs(family("llama", raw=True).final_norm - 1).max()) == 0


# What config.json says.


def config(**values):
    sizes = {"num_hidden_layers": 4, "hidden_size": 32, "num_attention_heads": 4}
    return parse_config(json.dumps(sizes | values))[0]


def test_defaults_are_those_of_the_family():
    qwen = config(architectures=["Qwen3ForCausalLM"], num_key_value_heads=2)
    assert (qwen.head_dim, qwen.vocab_size, qwen.bos_token_id) == (128, 151936, None)
    assert qwen.qk_norm and qwen.bos == "none" and qwen.sliding_window is None
    gemma = config(model_type="gemma", num_key_value_heads=1)
    assert gemma.tie_word_embeddings and gemma.norm_offset == 1 and gemma.scale_embeddings
    assert gemma.hidden_act == "gelu_pytorch_tanh" and gemma.bos == "every"
    assert config(model_type="mistral", num_key_value_heads=4).sliding_window == 4096
    assert (
        config(model_type="mistral", num_key_value_heads=4, sliding_window=None).sliding_window
        is None
    )


def test_presets_put_bos_where_the_family_needs_it():
    found = {name: preset("shortened", family(name).config).bos for name in FAMILIES}
    assert found == {
        **{"llama": "first", "mistral": "first", "gemma": "every"},
        **{"qwen2": "none", "qwen3": "none"},
    }


def test_the_first_gemma_files_mean_the_tanh_form():
    for keys in ({"hidden_act": "gelu"}, {"hidden_act": "gelu", "hidden_activation": None}):
        found = config(model_type="gemma", num_key_value_heads=1, **keys)
        assert found.hidden_act == "gelu_pytorch_tanh"


def test_refused():
    def refusal(**values):
        with pytest.raises(InputError) as error:
            config(num_key_value_heads=2, **values)
        return str(error.value)

    assert "bidirectional attention is not supported" in refusal(
        model_type="gemma", use_bidirectional_attention=True
    )
    unknown = refusal(architectures=["MixtralForCausalLM"])
    assert "unsupported architecture 'MixtralForCausalLM'" in unknown
    assert "Qwen3ForCausalLM" in unknown and "Gemma 1" in unknown
    assert "unsupported hidden_act 'relu'; supported: silu, gelu" in refusal(
        model_type="llama", hidden_act="relu"
    )


def test_a_key_counts_only_where_transformers_reads_it():
    window = {"sliding_window": 8, "num_key_value_heads": 2}
    for name in ("llama", "gemma"):
        assert config(model_type=name, **window).sliding_window is None
    full = config(model_type="mistral", layer_types=["full_attention"] * 4, **window)
    assert full.sliding_window == 8
    assert config(model_type="qwen2", num_key_value_heads=None).num_key_value_heads == 4
    silu = config(model_type="qwen2", num_key_value_heads=2, hidden_activation="gelu")
    assert silu.hidden_act == "silu"


@every_family
def test_without_any_attention(name, tmp_path):
    """Zeros stand for it in the files, with every tensor that the family has."""
    bare = drop_units([(layer, "attention") for layer in range(3)])(family(name))
    export_huggingface(tmp_path / "bare", bare)
    ids = windows(2, 16)
    np.testing.assert_allclose(logits(load(tmp_path / "bare"), ids), logits(bare, ids), atol=1e-5)


def test_fewer_heads_without_head_dim_in_the_config(tmp_path):
    """Half of the heads are gone, and the width of the others is as it was."""
    llama = family("mistral")
    export_huggingface(tmp_path / "whole", llama)
    file = tmp_path / "whole" / "config.json"
    file.write_text(
        json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != "head_dim"})
    )
    whole = load(tmp_path / "whole")

    def narrow(block):
        attn = block.attn
        cut = {
            n: Linear(getattr(attn, n).kernel[:, :size])
            for n, size in (("q", 16), ("k", 8), ("v", 8))
        }
        return block.replace(attn=attn.replace(**cut, o=Linear(attn.o.kernel[:16])))

    cut = whole.replace(blocks=tuple(map(narrow, whole.blocks)))
    export_huggingface(tmp_path / "cut", cut)
    again, ids = load(tmp_path / "cut"), windows(2, 16)
    assert again.config.head_dim == 8
    np.testing.assert_allclose(logits(again, ids), logits(cut, ids), atol=1e-6)


def test_tensors_of_each_family_are_where_transformers_looks(tmp_path):
    export_huggingface(tmp_path / "qwen3", family("qwen3"))
    stored = read_headers(tmp_path / "qwen3")
    assert stored["model.layers.0.self_attn.q_norm.weight"].shape == (16,)
    export_huggingface(tmp_path / "qwen2", family("qwen2"))
    stored = read_headers(tmp_path / "qwen2")
    assert "model.layers.2.self_attn.k_proj.bias" in stored
    assert "model.layers.2.self_attn.o_proj.bias" not in stored
    np.testing.assert_array_equal(
        read_tensor(stored["model.layers.2.self_attn.k_proj.bias"]),
        family("qwen2").blocks[2].attn.k.bias,
    )
