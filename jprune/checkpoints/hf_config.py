"""Between Hugging Face's config.json and `LlamaConfig`."""

import json
from collections.abc import Sequence
from typing import Any

from jprune.core.errors import InputError
from jprune.llama.config import LlamaConfig, Rope

# Architectures by the family whose forward pass they need.
ARCHITECTURES = {"LlamaForCausalLM": "llama"}

_ROPE_KINDS = {"default": "none", "linear": "linear", "llama3": "llama3"}
_REQUIRED_SCALING = {
    "none": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}
# Defaults of transformers' LlamaConfig, for keys that a config.json may leave out.
_SIZES = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
}
# What a transform may change: these keys follow the arrays, all others the original file.
_FROM_ARRAYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "attention_bias",
    "mlp_bias",
    "tie_word_embeddings",
)


def parse_config(text: str, where: str = "config.json") -> tuple[LlamaConfig, int]:
    """The hyperparameters of a config.json and its number of layers.

    Keys that are absent have the defaults of transformers' `LlamaConfig`.

    Args:
      text: the content of the file; the result keeps it as `source`.
      where: the name of the file, for messages.

    Raises:
      InputError: not JSON, an architecture or a rotary embedding that jprune does not have,
        quantised weights, or a value of the wrong kind.
    """
    values = _parse_object(text, where)
    family = _family(values, where)
    _refuse_quantised(values, where)
    sizes: dict[str, Any] = {
        key: _positive(values, key, default, where) for key, default in _SIZES.items()
    }
    num_layers = sizes.pop("num_hidden_layers")
    hidden, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    kv_heads = _positive(values, "num_key_value_heads", heads, where)
    if heads % kv_heads:
        raise InputError(
            f"{where}: num_attention_heads {heads} is not a multiple of "
            f"num_key_value_heads {kv_heads}"
        )
    if values.get("head_dim") is None and hidden % heads:
        raise InputError(
            f"{where}: hidden_size {hidden} is not a multiple of num_attention_heads {heads}"
        )
    head_dim = _positive(values, "head_dim", hidden // heads, where)
    if head_dim % 2:
        raise InputError(f"{where}: rotary embeddings need an even head_dim, not {head_dim}")
    if (activation := values.get("hidden_act", "silu")) != "silu":
        raise InputError(f"{where}: unsupported hidden_act {activation!r}; supported: silu")
    eos = values.get("eos_token_id", 2)
    config = LlamaConfig(
        **sizes,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        rms_norm_eps=_number(values, "rms_norm_eps", 1e-6, where),
        rope=parse_rope(values, where),
        tie_word_embeddings=_flag(values, "tie_word_embeddings", where),
        attention_bias=_flag(values, "attention_bias", where),
        mlp_bias=_flag(values, "mlp_bias", where),
        bos_token_id=values.get("bos_token_id", 1),
        eos_token_id=tuple(eos) if isinstance(eos, list) else eos,
        family=family,
        source=text,
    )
    return config, num_layers


def parse_rope(values: dict[str, Any], where: str = "config.json") -> Rope:
    """The rotary embedding, from `rope_theta` and `rope_scaling` or from `rope_parameters`.

    As in transformers: a non-empty `rope_scaling` comes before `rope_parameters`, and a theta
    inside either before the one beside it.
    """
    scaling = values.get("rope_scaling") or values.get("rope_parameters") or {}
    if not isinstance(scaling, dict):
        raise InputError(f"{where}: rope_scaling must be an object, found {scaling!r}")
    name = scaling.get("rope_type", scaling.get("type", "default"))
    if name not in _ROPE_KINDS:
        raise InputError(
            f"{where}: unsupported rope type {name!r}; supported: {', '.join(_ROPE_KINDS)}"
        )
    partial = scaling.get("partial_rotary_factor", values.get("partial_rotary_factor")) or 1.0
    if partial != 1.0:
        raise InputError(
            f"{where}: unsupported partial_rotary_factor {partial}; "
            "supported: 1.0 (the whole head is rotated)"
        )
    kind = _ROPE_KINDS[name]
    outer = _number(values, "rope_theta", 10000.0, where)
    fields: dict[str, Any] = {"theta": _number(scaling, "rope_theta", outer, where)}
    for key in _REQUIRED_SCALING[kind]:
        if scaling.get(key) is None:
            raise InputError(f"{where}: rope type {name!r} needs {key!r}")
        fields[key] = _number(scaling, key, 1.0, where)
    if kind == "llama3":
        longest = _positive(values, "max_position_embeddings", 2048, where)
        inner = _positive(scaling, "original_max_position_embeddings", longest, where)
        fields["original_max_position_embeddings"] = _positive(
            values, "original_max_position_embeddings", inner, where
        )
    return Rope(kind=kind, **fields)  # type: ignore[arg-type]


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
    values.setdefault("architectures", list(ARCHITECTURES))
    values.setdefault("model_type", config.family)
    if config.source:
        original, num_layers = parse_config(config.source)
        values = cut_layer_lists(values, num_layers, kept)
        for key in _FROM_ARRAYS:
            if getattr(config, key) != getattr(original, key):
                values[key] = getattr(config, key)
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
    architectures = [name for name, family in ARCHITECTURES.items() if family == config.family]
    return {
        "architectures": architectures,
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
        "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": list(eos) if isinstance(eos, tuple) else eos,
    }


def _parse_object(text: str, where: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise InputError(f"{where} is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"{where} is not a JSON object")
    return values


def _family(values: dict[str, Any], where: str) -> str:
    names = values.get("architectures") or []
    if not names and values.get("model_type") in ARCHITECTURES.values():
        return values["model_type"]
    name = names[0] if names else values.get("model_type") or "none given"
    if name not in ARCHITECTURES:
        raise InputError(
            f"{where}: unsupported architecture {name!r}; jprune reads {', '.join(ARCHITECTURES)} "
            "(Llama 1, 2, 3 and Vicuna)"
        )
    return ARCHITECTURES[name]


def _refuse_quantised(values: dict[str, Any], where: str) -> None:
    for key in ("quantization_config", "compression_config"):
        if values.get(key):
            method = values[key].get("quant_method", key) if isinstance(values[key], dict) else key
            raise InputError(
                f"{where}: the weights are quantised ({method}); "
                "give the checkpoint in float32, bfloat16 or float16"
            )


def _positive(values: dict[str, Any], key: str, default: int, where: str) -> int:
    value = values.get(key)
    if value is None:
        return default
    if type(value) is not int or value < 1:
        raise InputError(f"{where}: {key} must be a positive integer, found {value!r}")
    return value


def _number(values: dict[str, Any], key: str, default: float, where: str) -> float:
    value = values.get(key)
    if value is None:
        return default
    if type(value) not in (int, float) or not value > 0:
        raise InputError(f"{where}: {key} must be a positive number, found {value!r}")
    return float(value)


def _flag(values: dict[str, Any], key: str, where: str) -> bool:
    value = values.get(key)
    if value is not None and type(value) is not bool:
        raise InputError(f"{where}: {key} must be true or false, found {value!r}")
    return bool(value)
