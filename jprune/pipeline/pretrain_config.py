"""What a pretraining run is asked to do, checked before any text is read."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jprune.checkpoints import as_dtype
from jprune.core.errors import InputError, unknown
from jprune.evaluate import PROTOCOLS
from jprune.llama.config import LlamaConfig, Rope
from jprune.pipeline.groups import filled, train_settings
from jprune.retrain import TrainSettings
from jprune.retrain.settings import LEAST, check_fields, check_settings
from jprune.retrain.tokenizer import BOS_ID, EOS_ID, SMALLEST_VOCABULARY

# The least that an integer takes, where it is not 1.
_LEAST = {"vocab_size": SMALLEST_VOCABULARY} | LEAST


@dataclasses.dataclass(frozen=True)
class Architecture:
    """Sizes of the model, under their Hugging Face names."""

    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    max_position_embeddings: int
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    tie_word_embeddings: bool = False

    def llama_config(self, vocab_size: int) -> LlamaConfig:
        """The config of the model; heads share the hidden size evenly."""
        same = ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
        same += ("max_position_embeddings", "rms_norm_eps", "tie_word_embeddings")
        return LlamaConfig(
            vocab_size=vocab_size,
            head_dim=self.hidden_size // self.num_attention_heads,
            rope=Rope(theta=self.rope_theta),
            bos_token_id=BOS_ID,
            eos_token_id=EOS_ID,
            **{name: getattr(self, name) for name in same},
        )


@dataclasses.dataclass(frozen=True)
class PretrainConfig:
    """The keys of a config for pretraining.

    Attributes:
      data: source of the text; of a known name the part that is not for evaluation.
      eval: sources of the perplexities, the first one's also of the validation on the way.
      vocab_size: of the tokenizer, which is fitted to `data`.
      architecture: of the model.
      train: see `TrainSettings`; the keys of `AdamW` are among them.
      name: of the model.
      validation_windows: at most so many, evenly spread over the held-out text.
      protocol: of perplexity, a name of `jprune.evaluate.PROTOCOLS`.
      eval_windows: at most so many windows of each data source; None for all.
      dtype: of the exported weights.
      seed: of the initial weights and of the data order.
      data_dir: folder with local copies of known data sources.
    """

    data: str
    eval: tuple[str, ...]
    vocab_size: int
    architecture: Architecture
    train: TrainSettings
    name: str = "model"
    validation_windows: int = 96
    protocol: str = "shortened"
    eval_windows: int | None = 256
    dtype: str = "bfloat16"
    seed: int = 0
    data_dir: str | None = None


def pretrain_config(values: Mapping[str, Any]) -> PretrainConfig:
    """The config that these keys give.

    Raises:
      InputError: an unknown or missing key, or a size that cannot be.
    """
    fields = dict(values)
    check_fields(PretrainConfig, fields, "config key '{}'", _LEAST)
    evaluation = fields.get("eval") or ()
    fields["eval"] = (evaluation,) if isinstance(evaluation, str) else tuple(evaluation)
    sizes = fields.get("architecture")
    fields["architecture"] = filled(Architecture, sizes, "architecture.", _LEAST)
    fields["train"] = train_settings(fields.get("train"), fields.get("seed", 0))
    config = filled(PretrainConfig, fields, "", _LEAST)
    if config.protocol not in PROTOCOLS:
        raise unknown("protocol", config.protocol, PROTOCOLS)
    if not config.eval:
        raise InputError("nothing to evaluate on: give --config.eval=SOURCE (or several, a,b)")
    as_dtype(config.dtype)
    _check_sizes(config.architecture)
    check_settings(config.train, "config key 'train.{}'")
    return config


def _check_sizes(sizes: Architecture) -> None:
    heads = sizes.num_attention_heads
    if sizes.hidden_size % (2 * heads):
        raise InputError(
            f"architecture.hidden_size {sizes.hidden_size} does not give each of {heads} heads an "
            "even number of channels"
        )
    if heads % sizes.num_key_value_heads:
        raise InputError(
            f"architecture.num_attention_heads {heads} is not a multiple of "
            f"num_key_value_heads {sizes.num_key_value_heads}"
        )
