"""Tiny checkpoints, written with the reference implementation of safetensors."""

import json

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

TINY = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "dtype": "float32",
}


def _tensors(config, dtype, seed):
    rng = np.random.default_rng(seed)
    hidden, mlp = config["hidden_size"], config["intermediate_size"]
    kv = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    shapes = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        for name, rows, columns in (
            ("self_attn.q_proj", hidden, hidden),
            ("self_attn.k_proj", kv, hidden),
            ("self_attn.v_proj", kv, hidden),
            ("self_attn.o_proj", hidden, hidden),
            ("mlp.gate_proj", mlp, hidden),
            ("mlp.up_proj", mlp, hidden),
            ("mlp.down_proj", hidden, mlp),
        ):
            shapes[f"{prefix}{name}.weight"] = (rows, columns)
            if config.get("attention_bias" if "attn" in name else "mlp_bias"):
                shapes[f"{prefix}{name}.bias"] = (rows,)
        shapes[f"{prefix}input_layernorm.weight"] = (hidden,)
        shapes[f"{prefix}post_attention_layernorm.weight"] = (hidden,)
    shapes["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], hidden)
    return {
        name: (rng.normal(size=shape) * 0.2 + ("norm" in name)).astype(dtype)
        for name, shape in shapes.items()
    }


@pytest.fixture
def tiny_config():
    """A function (changes) -> config dict."""
    return lambda **changes: TINY | changes


@pytest.fixture
def tiny():
    """A function (changes to the config, dtype, seed) -> (config dict, tensors by name)."""

    def make(dtype=np.float32, seed=0, **changes):
        config = TINY | changes
        return config, _tensors(config, dtype, seed)

    return make


@pytest.fixture
def write():
    """A function that writes a checkpoint folder, its tensors dealt out to `shards` files."""

    def write(folder, config, tensors, shards=1):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(config, indent=1))
        if shards == 1:
            safetensors.numpy.save_file(tensors, folder / "model.safetensors")
            return folder
        names, weight_map = list(tensors), {}
        for i in range(shards):
            file = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
            part = {name: tensors[name] for name in names[i::shards]}
            safetensors.numpy.save_file(part, folder / file)
            weight_map |= dict.fromkeys(part, file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        return folder

    return write


@pytest.fixture
def read():
    """A function that reads every tensor of a folder with the reference implementation."""

    def read(folder):
        return {
            name: values
            for file in sorted(folder.glob("*.safetensors"))
            for name, values in safetensors.numpy.load_file(file).items()
        }

    return read


@pytest.fixture
def same():
    """A function that asserts that two dicts of arrays are equal, bit for bit."""

    def same(found, expected):
        assert found.keys() == expected.keys()
        for name, values in expected.items():
            assert found[name].dtype == values.dtype, name
            assert found[name].shape == values.shape, name
            assert found[name].tobytes() == values.tobytes(), name

    return same


@pytest.fixture
def bf16():
    return np.dtype(ml_dtypes.bfloat16)
