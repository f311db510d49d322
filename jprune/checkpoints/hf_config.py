"""Between Hugging Face's config.json and `LlamaConfig`."""

import json
from collections.abc import Sequence
from typing import Any

from jprune.checkpoints.config_values import (
    flag,
    number,
    parse_object,
    positive,
    string,
    strings,
    token,
    tokens,
)
from jprune.checkpoints.families import ARCHITECTURES, FAMILIES, SUPPORTED, Family
from jprune.checkpoints.hf_rope import parse_rope
from jprune.checkpoints.hf_window import parse_window
from jprune.core.errors import InputError
from jprune.llama.config import LlamaConfig
from jprune.llama.forward import ACTIVATIONS

_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "max_position_embeddings",
)
# Keys of which null says something; elsewhere it is as if the key were not there.
_NULL_COUNTS = ("num_key_value_heads", "sliding_window", "bos_token_id", "eos_token_id")
# What a transform may change: these keys follow the arrays, all others the original file.
_FROM_ARRAYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "tie_word_embeddings",
)


def parse_config(text: str, where: str = "config.json") -> tuple[LlamaConfig, int]:
    """The hyperparameters of a config.json and its number of layers.

    Keys that are absent have the defaults that transformers has for the family.

    Args:
      text: the content of the file; the result keeps it as `source`.
      where: the name of the file, for messages.

    Raises:
      InputError: not JSON, an architecture or a part of one that jprune does not have, quantised
        weights, or a value of the wrong kind.
    """
    values = parse_object(text, where)
    name = _family(values, where)
    family = FAMILIES[name]
    _refuse_quantised(values, where)
    given = {k: v for k, v in values.items() if v is not None or k in _NULL_COUNTS}
    values = {**family.defaults, **given}
    sizes: dict[str, Any] = {key: positive(values, key, 0, where) for key in _SIZES}
    num_layers = positive(values, "num_hidden_layers", 0, where)
    hidden, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    kv_heads = positive(values, "num_key_value_heads", heads, where)
    if heads % kv_heads:
        raise InputError(
            f"{where}: num_attention_heads {heads} is not a multiple of "
            f"num_key_value_heads {kv_heads}"
        )
    if values.get("head_dim") is None and hidden % heads:
        raise InputError(
            f"{where}: hidden_size {hidden} is not a multiple of num_attention_heads {heads}"
        )
    head_dim = positive(values, "head_dim", hidden // heads, where)
    if head_dim % 2:
        raise InputError(f"{where}: rotary embeddings need an even head_dim, not {head_dim}")
    fields: dict[str, Any] = {**sizes, **_biases(values, family, where), **family.fields}
    fields |= {
        "sliding_window": parse_window(values, family, num_layers, where),
        "bos_token_id": token(values, "bos_token_id", where),
        "eos_token_id": tokens(values, "eos_token_id", where),
    }
    config = LlamaConfig(
        **fields,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        rms_norm_eps=number(values, "rms_norm_eps", 1e-6, where),
        rope=parse_rope(values, where),
        tie_word_embeddings=flag(values, "tie_word_embeddings", where),
        hidden_act=_activation(values, name, where),
        family=name,
        source=text,
    )
    return config, num_layers


def stored_dtype(config: LlamaConfig) -> str | None:
    """The dtype that the original config.json names, or None."""
    values = json.loads(config.source) if config.source else {}
    name = values.get("dtype") or values.get("torch_dtype")
    return name.removeprefix("torch.") if isinstance(name, str) else None


def export_config(config: LlamaConfig, kept: Sequence[int], dtype: str) -> dict[str, Any]:
    """The config.json of a model made of some layers of the original.

    All keys of the original (`config.source`) stay, in order. Changed are the number of layers,
    per-layer lists, the dtype, and those sizes and flags in which `config` differs from it.

    Args:
      config: the hyperparameters of the model to write.
      kept: the original index of every layer.
      dtype: name of the dtype of the weights.

    Raises:
      InputError: a per-layer list is too short for an index in `kept`.
    """
    values = json.loads(config.source) if config.source else _config_values(config)
    values.setdefault("architectures", [FAMILIES[config.family].architecture])
    values.setdefault("model_type", config.family)
    if config.source:
        original, num_layers = parse_config(config.source)
        values = cut_layer_lists(values, num_layers, kept)
        for key in (*_FROM_ARRAYS, *FAMILIES[config.family].written):
            if getattr(config, key) != getattr(original, key):
                values[key] = getattr(config, key)
        if "head_dim" not in values and config.hidden_size != (
            config.head_dim * config.num_attention_heads
        ):
            values["head_dim"] = config.head_dim
    values["num_hidden_layers"] = len(kept)
    named = [key for key in ("dtype", "torch_dtype") if key in values]
    values.update(dict.fromkeys(named or ["dtype"], dtype))
    return values


def cut_layer_lists(values: dict[str, Any], num_layers: int, kept: Sequence[int]) -> dict[str, Any]:
    """`values` with the lists that have one item per layer reduced to the layers in `kept`.

    Such a list has `num_layers` items under a key that speaks of layers (`layer_types`,
    `no_rope_layers`, `..._per_layer`).
    """

    def cut(key: str, value: Any) -> Any:
        if not ("layer" in key and isinstance(value, list) and len(value) == num_layers):
            return value
        if any(index >= num_layers for index in kept):
            raise InputError(
                f"cannot cut {key!r} of config.json, which has {num_layers} items, "
                f"to layers {list(kept)}"
            )
        return [value[index] for index in kept]

    return {key: cut(key, value) for key, value in values.items()}


def _config_values(config: LlamaConfig) -> dict[str, Any]:
    """The content of a config.json for a model that did not come from one."""
    rope, eos = config.rope, config.eos_token_id
    scaling: dict[str, Any] | None = None
    if rope.kind != "none":
        scaling = {"rope_type": rope.kind, "factor": rope.factor}
    if scaling and rope.kind == "llama3":
        scaling["low_freq_factor"] = rope.low_freq_factor
        scaling["high_freq_factor"] = rope.high_freq_factor
        scaling["original_max_position_embeddings"] = rope.original_max_position_embeddings
    family = FAMILIES[config.family]
    own = {key: getattr(config, key) for key in family.written}
    if "sliding_window" in family.defaults:
        own["sliding_window"] = config.sliding_window
    if "use_sliding_window" in family.defaults:  # from layer 0 on
        slides = config.sliding_window is not None
        own |= {"use_sliding_window": slides, "max_window_layers": 0}
    return {
        "architectures": [family.architecture],
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": 0,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": rope.theta,  # the older form, which every version of transformers reads
        "rope_scaling": scaling,
        "hidden_act": config.hidden_act,
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": list(eos) if isinstance(eos, tuple) else eos,
        **own,
    }


def _family(values: dict[str, Any], where: str) -> str:
    names = strings(values, "architectures", where)
    model_type = string(values, "model_type", "", where)
    if not names and model_type in FAMILIES:
        return model_type
    name = names[0] if names else model_type or "none given"
    if name not in ARCHITECTURES:
        raise InputError(
            f"{where}: unsupported architecture {name!r}; jprune reads {', '.join(ARCHITECTURES)} "
            f"({SUPPORTED})"
        )
    return ARCHITECTURES[name]


def _activation(values: dict[str, Any], family: str, where: str) -> str:
    name = string(values, "hidden_act", "", where)
    if family == "gemma":
        name = string(values, "hidden_activation", "", where) or name
        if name == "gelu":  # what its first files say, and never was so
            name = "gelu_pytorch_tanh"
    if name not in ACTIVATIONS:
        raise InputError(
            f"{where}: unsupported hidden_act {name!r}; supported: {', '.join(ACTIVATIONS)}"
        )
    return name


def _biases(values: dict[str, Any], family: Family, where: str) -> dict[str, bool]:
    """Of a family whose models have no such key, what the key says counts for nothing."""
    attention, mlp = (flag(values, key, where) for key in ("attention_bias", "mlp_bias"))
    found = {"attention_bias": attention, "mlp_bias": mlp}
    found = {key: value for key, value in found.items() if key in family.written}
    return found | ({"output_bias": attention} if "attention_bias" in found else {})


def _refuse_quantised(values: dict[str, Any], where: str) -> None:
    for key in ("quantization_config", "compression_config"):
        if values.get(key):
            method = values[key].get("quant_method", key) if isinstance(values[key], dict) else key
            raise InputError(
                f"{where}: the weights are quantised ({method}); "
                "give the checkpoint in float32, bfloat16 or float16"
            )
