"""What a Llama is, apart from its parameters."""

import dataclasses
from typing import Literal

Bos = Literal["first", "every", "none"]
RopeKind = Literal["none", "linear", "llama3"]


@dataclasses.dataclass(frozen=True)
class Rope:
    """Rotary position embedding: base and frequency scaling.

    `linear` divides every frequency by `factor`. `llama3` divides only the frequencies whose
    wavelength is long against `original_max_position_embeddings`, with a smooth passage between
    `low_freq_factor` and `high_freq_factor` (Llama 3.1, "The Llama 3 Herd of Models", 3.4.2).
    """

    theta: float = 10000.0
    kind: RopeKind = "none"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 8192


@dataclasses.dataclass(frozen=True)
class LlamaConfig:
    """Hyperparameters under their Hugging Face names; hashable, hence usable as a static argument.

    There is no number of layers: that is `llama.num_layers`. Widths given here are those of a full
    block; a pruned block may be narrower, and the forward pass goes by the shapes of its arrays.

    Attributes:
      sliding_window: a token sees itself and the `sliding_window` - 1 before it; None for all.
      attention_bias: whether q, k and v have biases.
      output_bias: whether o has one.
      qk_norm: whether each head's q and k are normalised before they are rotated.
      norm_offset: what is added to the weights of norms, except those of q and k.
      scale_embeddings: whether embeddings are multiplied by sqrt(hidden_size).
      hidden_act: activation of the gate, a name of `jprune.llama.forward.ACTIVATIONS`.
      bos: where the text that the model reads should have BOS: once, in every window, or nowhere.
      family: what Hugging Face calls the type of model.
      source: the text of the Hugging Face config.json that the model came with. Exporting starts
        from it, so keys that jprune does not interpret survive.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-6
    rope: Rope = Rope()
    tie_word_embeddings: bool = False
    sliding_window: int | None = None
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    norm_offset: float = 0.0
    scale_embeddings: bool = False
    hidden_act: str = "silu"
    bos: Bos = "first"
    bos_token_id: int | None = 1
    eos_token_id: int | tuple[int, ...] | None = 2
    family: str = "llama"
    source: str = dataclasses.field(default="", repr=False)
