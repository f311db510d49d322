"""Rotary embeddings in the two forms that config.json has for them."""

from typing import Any

from jprune.checkpoints.config_values import mapping, number, positive, string
from jprune.core.errors import InputError
from jprune.llama.config import Rope

_ROPE_KINDS = {"default": "none", "linear": "linear", "llama3": "llama3"}
_REQUIRED_SCALING = {
    "none": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
}


def parse_rope(values: dict[str, Any], where: str = "config.json") -> Rope:
    """The rotary embedding, from `rope_theta` and `rope_scaling` or from `rope_parameters`.

    As in transformers: a non-empty `rope_scaling` comes before `rope_parameters`, and a theta
    inside either before the one beside it.

    Raises:
      InputError: a kind of scaling that jprune does not have, a value of the wrong kind, or
        parameters that are given for each kind of layer apart.
    """
    forms = {key: mapping(values, key, where) for key in ("rope_scaling", "rope_parameters")}
    key, scaling = next((form for form in forms.items() if form[1]), ("", {}))
    nested = next((name for name, value in scaling.items() if isinstance(value, dict)), None)
    if nested:
        raise InputError(
            f"{where}: {key} is given for single kinds of layers ({nested!r}), which is not "
            'supported; write one for all of them, as in {"rope_type": "default", "rope_theta": '
            "10000.0}"
        )
    name = string(scaling, "rope_type", string(scaling, "type", "default", where), where)
    if name not in _ROPE_KINDS:
        raise InputError(
            f"{where}: unsupported rope type {name!r}; supported: {', '.join(_ROPE_KINDS)}"
        )
    outer = number(values, "partial_rotary_factor", 1.0, where)
    partial = number(scaling, "partial_rotary_factor", outer, where)
    if partial != 1.0:
        raise InputError(
            f"{where}: unsupported partial_rotary_factor {partial}; "
            "supported: 1.0 (the whole head is rotated)"
        )
    kind = _ROPE_KINDS[name]
    outer = number(values, "rope_theta", 10000.0, where)
    fields: dict[str, Any] = {"theta": number(scaling, "rope_theta", outer, where)}
    for key in _REQUIRED_SCALING[kind]:
        if scaling.get(key) is None:
            raise InputError(f"{where}: rope type {name!r} needs {key!r}")
        fields[key] = number(scaling, key, 1.0, where)
    if kind == "llama3":
        longest = positive(values, "max_position_embeddings", 2048, where)
        inner = positive(scaling, "original_max_position_embeddings", longest, where)
        fields["original_max_position_embeddings"] = positive(
            values, "original_max_position_embeddings", inner, where
        )
    return Rope(kind=kind, **fields)  # type: ignore[arg-type]
