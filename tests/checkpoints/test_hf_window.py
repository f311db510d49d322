"""How far attention sees, by the keys of config.json."""

import json

import pytest

from jprune.checkpoints.hf_config import parse_config
from jprune.core import InputError


def window(name, **keys):
    """What a model of four layers sees that has these keys."""
    sizes = {"num_hidden_layers": 4, "hidden_size": 32, "num_attention_heads": 4}
    values = sizes | {"num_key_value_heads": 2, "model_type": name} | keys
    return parse_config(json.dumps(values))[0].sliding_window


SLIDING = {"use_sliding_window": True, "sliding_window": 8}


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, None),
        (SLIDING | {"use_sliding_window": False, "max_window_layers": 0}, None),
        (SLIDING | {"max_window_layers": 0}, 8),
        (SLIDING | {"max_window_layers": 4}, None),
        (SLIDING | {"layer_types": ["sliding_attention"] * 4}, 8),
        # A window as long as anything the model reads is none.
        (SLIDING | {"max_window_layers": 2, "max_position_embeddings": 8}, None),
    ],
)
def test_qwen_windows(keys, expected):
    assert window("qwen2", **keys) == expected


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"layer_types": ["chunked_attention"] * 4}, "unsupported layer type 'chunked_attention'"),
        ({"layer_types": ["full_attention"] * 2}, "has 2 items, but num_hidden_layers is 4"),
        ({"layer_types": []}, "has 0 items, but num_hidden_layers is 4"),
        ({"layer_types": "full_attention"}, "layer_types must be a list of strings"),
        (
            {"layer_types": ["sliding_attention"] * 2 + ["full_attention"] * 2},
            "some layers have a sliding window and others not .* in which all have it or none",
        ),
        ({"max_window_layers": 2}, "some layers have a sliding window and others not"),
        ({"max_window_layers": "28"}, "max_window_layers must be an integer from 0 on, found '28'"),
        (
            {"layer_types": ["sliding_attention"] * 4, "use_sliding_window": False},
            "has 'sliding_attention', but use_sliding_window is false or sliding_window null",
        ),
    ],
)
@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
def test_odd_layer_types_are_refused(name, keys, message):
    with pytest.raises(InputError, match=f"^config.json: .*{message}"):
        window(name, **SLIDING | keys)
