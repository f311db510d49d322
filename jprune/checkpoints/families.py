"""The families of models that jprune runs: how each differs from Llama, and what its files omit."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jprune.llama.config import LlamaConfig


@dataclasses.dataclass(frozen=True)
class Family:
    """One family.

    Attributes:
      architecture: of its config.json.
      defaults: values of the keys that a config.json may leave out, as transformers has them.
      fields: fields of `LlamaConfig` that all models of the family share, and no key tells.
      written: keys of config.json that transformers reads for this family, of those that a
        transform may change; the family decides the others.
      heads_divide: whether transformers refuses a number of heads that does not divide the hidden
        size, also where head_dim is given.
    """

    architecture: str
    defaults: Mapping[str, Any]
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    written: tuple[str, ...] = ()
    heads_divide: bool = False


_LLAMA = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_QWEN = _LLAMA | {
    "vocab_size": 151936,
    "intermediate_size": 22016,
    "num_key_value_heads": 32,
    "max_position_embeddings": 32768,
    "sliding_window": 4096,
    "use_sliding_window": False,
    "max_window_layers": 28,
    "bos_token_id": None,
    "eos_token_id": None,
}

FAMILIES: Mapping[str, Family] = {
    "llama": Family(
        "LlamaForCausalLM", _LLAMA, written=("attention_bias", "mlp_bias"), heads_divide=True
    ),
    # Jiang et al., Mistral 7B (arXiv 2310.06825), section 2: attention in a sliding window.
    "mistral": Family(
        "MistralForCausalLM",
        _LLAMA
        | {
            "intermediate_size": 14336,
            "num_key_value_heads": 8,
            "max_position_embeddings": 131072,
            "sliding_window": 4096,
        },
    ),
    # Yang et al., Qwen2 Technical Report (arXiv 2407.10671), 2.2.1: biases of q, k and v alone.
    "qwen2": Family("Qwen2ForCausalLM", _QWEN, {"attention_bias": True, "bos": "none"}),
    # Yang et al., Qwen3 Technical Report (arXiv 2505.09388), section 2: q and k are normalised.
    "qwen3": Family(
        "Qwen3ForCausalLM",
        _QWEN | {"head_dim": 128},
        {"qk_norm": True, "bos": "none"},
        written=("attention_bias",),
    ),
    # Gemma Team (arXiv 2403.08295), section 2: GeGLU, scaled embeddings, norms by 1 + weight. It is
    # lost without BOS at the start of what it reads.
    "gemma": Family(
        "GemmaForCausalLM",
        _LLAMA
        | {
            "vocab_size": 256000,
            "hidden_size": 3072,
            "intermediate_size": 24576,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "head_dim": 256,
            "max_position_embeddings": 8192,
            "hidden_act": "gelu_pytorch_tanh",
            "tie_word_embeddings": True,
            "bos_token_id": 2,
            "eos_token_id": 1,
        },
        {"norm_offset": 1.0, "scale_embeddings": True, "bos": "every"},
        written=("attention_bias",),
    ),
}

ARCHITECTURES = {family.architecture: name for name, family in FAMILIES.items()}
SUPPORTED = "Llama 1, 2, 3 and Vicuna, Mistral, Qwen2, Qwen3, Gemma 1"


def accepts_heads(config: LlamaConfig, heads: int) -> bool:
    """Whether stock transformers loads a model of this family and hidden size with so many heads.

    It is taken to load the number that the config came with.
    """
    own = heads == config.num_attention_heads
    return own or not FAMILIES[config.family].heads_divide or config.hidden_size % heads == 0
