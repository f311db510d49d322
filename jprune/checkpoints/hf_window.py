"""How far attention sees, from the keys that config.json has for it."""

from typing import Any

from jprune.checkpoints.config_values import count, flag, positive, strings
from jprune.checkpoints.families import Family
from jprune.core.errors import InputError

_FULL, _SLIDING = "full_attention", "sliding_attention"


def parse_window(
    values: dict[str, Any], family: Family, num_layers: int, where: str = "config.json"
) -> int | None:
    """How many tokens attention sees, the same in all layers; None for all before.

    Args:
      values: of config.json, with the family's defaults for the keys that it leaves out.
      family: decides which of these keys count.
      num_layers: of the model.
      where: the name of the file, for messages.

    Raises:
      InputError: layers that differ, a kind of attention that jprune does not have, or keys that
        contradict each other.
    """
    if values.get("use_bidirectional_attention"):
        raise InputError(f"{where}: bidirectional attention is not supported, only causal")
    if "sliding_window" not in family.defaults:
        return None
    window = None
    if flag(values, "use_sliding_window", where) or "use_sliding_window" not in family.defaults:
        window = positive(values, "sliding_window", 0, where) or None
    if "use_sliding_window" not in family.defaults:  # Mistral: in all layers
        return window
    types = _layer_types(values, num_layers, window is not None, where)
    if window is None or types == {_FULL}:
        return None
    if types == {_SLIDING}:
        return window
    if window < values["max_position_embeddings"]:
        raise InputError(
            f"{where}: some layers have a sliding window and others not (layer_types, "
            "max_window_layers); supported are models in which all have it or none"
        )
    return None  # a window as long as anything the model reads


def _layer_types(values: dict[str, Any], num_layers: int, windowed: bool, where: str) -> set[str]:
    """The kinds of attention among the layers: as named, else a window from some layer on."""
    first = count(values, "max_window_layers", 0, where)
    if values.get("layer_types") is None:
        return {_SLIDING if windowed and layer >= first else _FULL for layer in range(num_layers)}
    types = strings(values, "layer_types", where)
    if len(types) != num_layers:
        raise InputError(
            f"{where}: layer_types has {len(types)} items, but num_hidden_layers is {num_layers}"
        )
    for name in types:
        if name not in (_FULL, _SLIDING):
            raise InputError(
                f"{where}: unsupported layer type {name!r}; supported: {_FULL}, {_SLIDING}"
            )
    if _SLIDING in types and not windowed:
        raise InputError(
            f"{where}: layer_types has {_SLIDING!r}, but use_sliding_window is false or "
            f"sliding_window null; set both, or write {_FULL!r} for all layers"
        )
    return set(types)
