import dataclasses
import json

import pytest

from jprune.checkpoints.hf_config import export_config, parse_config
from jprune.core.errors import InputError
from jprune.llama.config import LlamaConfig, Rope

LLAMA3 = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}

# Every form in which a rotary embedding is written, old and new.
ROPES = {
    "absent": ({}, Rope(10000.0)),
    "theta": ({"rope_theta": 5e5}, Rope(5e5)),
    "null": ({"rope_theta": 5e5, "rope_scaling": None}, Rope(5e5)),
    "default": ({"rope_parameters": {"rope_type": "default", "rope_theta": 2e4}}, Rope(2e4)),
    "outer theta": ({"rope_theta": 3e4, "rope_parameters": {"rope_type": "default"}}, Rope(3e4)),
    "inner theta": ({"rope_theta": 3e4, "rope_parameters": {"rope_theta": 4e4}}, Rope(4e4)),
    "old linear": (
        {"rope_theta": 2e4, "rope_scaling": {"type": "linear", "factor": 2.0}},
        Rope(2e4, "linear", 2.0),
    ),
    "new linear": (
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}},
        Rope(1e4, "linear", 4.0),
    ),
    "old llama3": (
        {"rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", **LLAMA3}},
        Rope(5e5, "llama3", 8.0, 1.0, 4.0, 32),
    ),
    "new llama3": (
        {"rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5, **LLAMA3}},
        Rope(5e5, "llama3", 8.0, 1.0, 4.0, 32),
    ),
    "llama3 without original length": (
        {
            "max_position_embeddings": 96,
            "rope_scaling": {
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
            },
        },
        Rope(1e4, "llama3", 8.0, 1.0, 4.0, 96),
    ),
}


def parse(tiny_config, **changes):
    return parse_config(json.dumps(tiny_config(**changes)))


@pytest.mark.parametrize("form", ROPES)
def test_rope_forms(tiny_config, form):
    config = tiny_config()
    del config["rope_theta"]
    changes, expected = ROPES[form]
    assert parse_config(json.dumps(config | changes))[0].rope == expected


@pytest.mark.parity
@pytest.mark.parametrize("form", ROPES)
def test_rope_agrees_with_transformers(tiny_config, form):
    pytest.importorskip("torch")
    from transformers.models.llama import modeling_llama
    from transformers.models.llama.configuration_llama import LlamaConfig as Reference

    config = tiny_config()
    del config["rope_theta"]
    config |= ROPES[form][0]
    rope = parse_config(json.dumps(config))[0].rope
    reference = Reference.from_dict(json.loads(json.dumps(config)))
    parameters = reference.rope_parameters
    assert parameters["rope_theta"] == rope.theta
    assert {"default": "none"}.get(parameters["rope_type"], parameters["rope_type"]) == rope.kind
    for key in ("factor", *LLAMA3):
        if key in parameters:
            assert parameters[key] == getattr(rope, key)
    # The frequencies that the export gives are those that the original gave.
    exported = export_config(parse_config(json.dumps(config))[0], [0, 1], "float32")
    again = modeling_llama.LlamaRotaryEmbedding(Reference.from_dict(exported)).inv_freq
    before = modeling_llama.LlamaRotaryEmbedding(reference).inv_freq
    assert (again == before).all()


@pytest.mark.parity
@pytest.mark.parametrize("absent", [None, "num_key_value_heads", "rms_norm_eps", "vocab_size"])
def test_defaults_and_fields_agree_with_transformers(tiny_config, absent):
    pytest.importorskip("torch")
    from transformers.models.llama.configuration_llama import LlamaConfig as Reference

    values = tiny_config(attention_bias=True, eos_token_id=[2, 7], head_dim=8)
    values.pop(absent, None)
    config, layers = parse_config(json.dumps(values))
    reference = Reference.from_dict(values)
    assert layers == reference.num_hidden_layers
    assert config.eos_token_id == (2, 7)
    assert config.output_bias  # the same key
    own = ("rope", "eos_token_id", "family", "source", "output_bias")
    # Of other families than Llama.
    own += ("sliding_window", "qk_norm", "norm_offset", "scale_embeddings", "bos")
    for field in dataclasses.fields(config):
        if field.name not in own:
            assert getattr(config, field.name) == getattr(reference, field.name), field.name


def test_an_almost_empty_config_has_the_defaults():
    config, layers = parse_config('{"architectures": ["LlamaForCausalLM"]}')
    assert layers == 32
    expected = LlamaConfig(
        vocab_size=32000,
        hidden_size=4096,
        intermediate_size=11008,
        num_attention_heads=32,
        num_key_value_heads=32,
        head_dim=128,
        max_position_embeddings=2048,
        rms_norm_eps=1e-6,
        source='{"architectures": ["LlamaForCausalLM"]}',
    )
    assert config == expected


def test_null_tokens_stay_null(tiny_config):
    config, _ = parse(tiny_config, bos_token_id=None, eos_token_id=None)
    assert config.bos_token_id is None and config.eos_token_id is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"architectures": ["GPTNeoXForCausalLM"]},
            "unsupported architecture 'GPTNeoXForCausalLM'; jprune reads LlamaForCausalLM",
        ),
        ({"architectures": None, "model_type": "mamba"}, "unsupported architecture 'mamba'"),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 2.0}},
            "unsupported rope type 'yarn'; supported: default, linear, llama3",
        ),
        ({"rope_scaling": {"type": "linear"}}, "rope type 'linear' needs 'factor'"),
        ({"rope_scaling": [1]}, "rope_scaling must be an object"),
        ({"rope_parameters": []}, "rope_parameters must be an object"),
        (
            {"rope_parameters": {"full_attention": {"rope_theta": 1e6}}},
            r"rope_parameters is given for single kinds of layers \('full_attention'\)",
        ),
        (
            {"rope_scaling": {"rope_theta": 1e6, "sliding_attention": {"rope_theta": 1e4}}},
            r"rope_scaling is given for single kinds of layers \('sliding_attention'\)",
        ),
        ({"rope_scaling": {"rope_type": ["linear"]}}, "rope_type must be a string, found"),
        ({"rope_scaling": {"type": 1}}, "type must be a string, found 1"),
        ({"partial_rotary_factor": [1]}, "partial_rotary_factor must be a positive number"),
        ({"architectures": 3}, "architectures must be a list of strings, found 3"),
        (
            {"architectures": "LlamaForCausalLM"},
            "architectures must be a list of strings, found 'LlamaForCausalLM'",
        ),
        ({"architectures": [["LlamaForCausalLM"]]}, "architectures must be a list of strings"),
        ({"architectures": None, "model_type": ["llama"]}, "model_type must be a string"),
        ({"hidden_act": ["silu"]}, "hidden_act must be a string, found"),
        ({"bos_token_id": [1]}, "bos_token_id must be an integer or null, found"),
        ({"eos_token_id": "2"}, "eos_token_id must be an integer or null, found '2'"),
        ({"eos_token_id": [2, [3]]}, "eos_token_id must be a list of integers, found"),
        ({"partial_rotary_factor": 0.5}, "unsupported partial_rotary_factor 0.5"),
        ({"hidden_act": "relu"}, "unsupported hidden_act 'relu'; supported: silu, gelu"),
        ({"hidden_size": "16"}, "hidden_size must be a positive integer, found '16'"),
        ({"num_hidden_layers": 0}, "num_hidden_layers must be a positive integer, found 0"),
        ({"rms_norm_eps": -1}, "rms_norm_eps must be a positive number, found -1"),
        ({"attention_bias": "no"}, "attention_bias must be true or false"),
        ({"num_key_value_heads": 3}, "num_attention_heads 4 is not a multiple of"),
        ({"hidden_size": 18}, "hidden_size 18 is not a multiple of num_attention_heads 4"),
        ({"head_dim": 5}, "even head_dim, not 5"),
        ({"quantization_config": {"quant_method": "gptq"}}, r"weights are quantised \(gptq\)"),
    ],
)
def test_errors_name_the_file_and_what_works(tiny_config, changes, message):
    with pytest.raises(InputError, match=f"^here/config.json: .*{message}"):
        parse_config(json.dumps(tiny_config(**changes)), "here/config.json")


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_not_a_json_object(text):
    with pytest.raises(InputError, match="^config.json is not"):
        parse_config(text)


def test_export_cuts_the_per_layer_lists_and_keeps_every_other_key(tiny_config):
    values = tiny_config(
        layer_types=["a", "b", "c"],
        rate_per_layer=[1, 2, 3],
        other_layers=[0, 2],  # not one item per layer
        betas=[0.1, 0.2, 0.3],  # as many items, but nothing to do with layers
        torch_dtype="float16",
    )
    config, _ = parse_config(json.dumps(values))
    exported = export_config(config, [2, 0], "bfloat16")
    assert list(exported) == list(values)
    assert exported == values | {
        "num_hidden_layers": 2,
        "layer_types": ["c", "a"],
        "rate_per_layer": [3, 1],
        "dtype": "bfloat16",
        "torch_dtype": "bfloat16",
    }


def test_export_refuses_to_invent_items_of_a_per_layer_list(tiny_config):
    config, _ = parse(tiny_config, layer_types=["a", "b", "c"])
    with pytest.raises(InputError, match="cannot cut 'layer_types'"):
        export_config(config, [0, 3], "float32")


def test_export_follows_what_transforms_changed(tiny_config):
    config, _ = parse(tiny_config)
    changed = dataclasses.replace(config, intermediate_size=8, tie_word_embeddings=True)
    exported = export_config(changed, [0], "float32")
    assert exported["intermediate_size"] == 8 and exported["tie_word_embeddings"] is True
    assert "head_dim" not in exported


@pytest.mark.parametrize("kind", ["none", "linear", "llama3"])
def test_a_model_without_an_original_config_round_trips(kind):
    rope = {
        "none": Rope(123.0),
        "linear": Rope(123.0, "linear", 3.0),
        "llama3": Rope(5e5, "llama3", 8.0, 1.0, 4.0, 64),
    }[kind]
    config = LlamaConfig(40, 16, 24, 4, 2, 8, 64, rope=rope, eos_token_id=(2, 3), mlp_bias=True)
    exported = export_config(config, [0, 1], "float32")
    assert exported["architectures"] == ["LlamaForCausalLM"]
    text = json.dumps(exported)
    again, layers = parse_config(text)
    assert again == dataclasses.replace(config, source=text)
    assert layers == 2
