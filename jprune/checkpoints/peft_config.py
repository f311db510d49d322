"""adapter_config.json of PEFT: which adapters jprune can hold, and their scales.

The update of a kernel is W + scale * a @ b with scale = alpha / r, or alpha / sqrt(r) where the
adapter is rank-stabilised (Kalajdzievski, arXiv 2312.03732).
"""

import dataclasses
import json
import math
import re
from collections.abc import Mapping
from typing import Any

from etils import epath

from jprune.core.errors import InputError

ADAPTER_CONFIG = "adapter_config.json"

# The way out for all that jprune does not hold: PEFT can turn any adapter into plain weights.
MERGE = (
    "merge it into its base with peft (AutoPeftModelForCausalLM.from_pretrained(...)"
    ".merge_and_unload().save_pretrained(...)) and give the merged model"
)

# Kinds of LoRA whose update is more than scale * a @ b, and keys that change other weights.
_UNSUPPORTED = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "fan_in_fan_out",
    "modules_to_save",
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "velora_config",
)
# Ways to start an adapter that leave the base as it is; others also change the base's weights.
_PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")


@dataclasses.dataclass(frozen=True)
class LoraSettings:
    """What an adapter_config.json says.

    Attributes:
      base: path or hub id of the base model.
      revision: of the base on the hub; None for its main branch.
      r: rank where no pattern says another.
      alpha: as `r`.
      rslora: whether the scale is alpha / sqrt(r).
      dropout: rate at which inputs of the update are dropped in training.
      ranks: rank by pattern.
      alphas: alpha by pattern.
    """

    base: str
    revision: str | None
    r: int
    alpha: float
    rslora: bool
    dropout: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]

    def rank(self, module: str) -> int:
        """The rank of the adapter of a module such as `model.layers.0.self_attn.q_proj`."""
        return _by_pattern(self.ranks, module, self.r)

    def scale(self, module: str) -> float:
        """What a @ b is multiplied by: alpha / r, or alpha / sqrt(r) for rsLoRA."""
        rank = self.rank(module)
        return _by_pattern(self.alphas, module, self.alpha) / (
            math.sqrt(rank) if self.rslora else rank
        )


def read_settings(folder: epath.Path) -> LoraSettings:
    """The settings in a folder's adapter_config.json.

    Raises:
      InputError: no valid file, or an adapter that is more than a low-rank update of kernels,
        with the key that says so.
    """
    where = folder / ADAPTER_CONFIG
    try:
        values = json.loads(where.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {where}: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"{where} is not a JSON object")
    _refuse_unsupported(values, where)
    base, revision = values.get("base_model_name_or_path"), values.get("revision")
    if not isinstance(base, str) or not base:
        raise InputError(
            f"{where} names no base model: set base_model_name_or_path to its folder or hub id"
        )
    ranks = _pattern(values, "rank_pattern", where)
    return LoraSettings(
        base=base,
        revision=revision if isinstance(revision, str) and revision else None,
        r=_rank(values.get("r", 8), "r", where),
        alpha=_number(values.get("lora_alpha", 8), "lora_alpha", where),
        rslora=bool(values.get("use_rslora")),
        dropout=_rate(values.get("lora_dropout") or 0.0, where),
        ranks={key: _rank(value, "rank_pattern", where) for key, value in ranks.items()},
        alphas={
            key: _number(value, "alpha_pattern", where)
            for key, value in _pattern(values, "alpha_pattern", where).items()
        },
    )


def _refuse_unsupported(values: dict[str, Any], where: epath.Path) -> None:
    kind = values.get("peft_type")
    if kind != "LORA":
        raise InputError(f"{where}: peft_type {kind!r} is not supported, only 'LORA'; {MERGE}")
    for key in _UNSUPPORTED:
        if values.get(key):
            raise InputError(f"{where}: {key} {values[key]!r} is not supported; {MERGE}")
    start = values.get("init_lora_weights")
    if start not in _PLAIN_STARTS:
        raise InputError(
            f"{where}: init_lora_weights {start!r} changes the weights of the base, which the "
            f"adapter does not hold; {MERGE}"
        )


def _by_pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of a module's name, as in PEFT.

    A pattern is a regular expression over whole components: `q_proj`, `layers.0.self_attn.q_proj`
    and `layers.[01].mlp.up_proj` match, `_proj` does not.
    """
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _pattern(values: dict[str, Any], key: str, where: epath.Path) -> dict[str, Any]:
    patterns = values.get(key) or {}
    if not isinstance(patterns, dict):
        raise InputError(f"{where}: {key} must be an object, found {patterns!r}")
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise InputError(
                f"{where}: {key} has an invalid pattern {pattern!r}: {error}"
            ) from None
    return patterns


def _rank(value: Any, key: str, where: epath.Path) -> int:
    if type(value) is not int or value < 1:
        raise InputError(f"{where}: {key} must be a positive integer, found {value!r}")
    return value


def _number(value: Any, key: str, where: epath.Path) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):
        raise InputError(f"{where}: {key} must be a number, found {value!r}")
    return float(value)


def _rate(value: Any, where: epath.Path) -> float:
    if type(value) not in (int, float) or not 0 <= value < 1:
        raise InputError(f"{where}: lora_dropout must be in [0, 1), found {value!r}")
    return float(value)
