"""How a perplexity was measured: figures compare only where these agree."""

import dataclasses
from typing import Any

from jprune.core import unknown
from jprune.llama.config import LlamaConfig


@dataclasses.dataclass(frozen=True)
class Protocol:
    r"""The protocol of one perplexity.

    Attributes:
      data: the data source string; empty in a preset.
      split: its split where it has one, e.g. "test".
      join: what stood between two documents; None for token ids used as they are.
      window_length: tokens per window; the first of a window is only context.
      num_windows: windows evaluated; None in a preset, for all.
      bos: "first", "every" or "none"; None for token ids used as they are.
      dtype: dtype of the activations.
      tokens: tokens predicted, num_windows * (window_length - 1).
      normaliser: what the NLL is averaged over.
    """

    data: str = ""
    split: str | None = None
    join: str | None = "\n\n"
    window_length: int = 128
    num_windows: int | None = None
    bos: str | None = "first"
    dtype: str | None = None
    tokens: int | None = None
    normaliser: str = "token"

    def to_json(self) -> dict[str, Any]:
        """The fields as a dict."""
        return dataclasses.asdict(self)


# Shortened LLaMA (arXiv 2402.02834) evaluates windows of 128 tokens; GPTQ (arXiv 2210.17323) and
# the sparsity papers after it windows of the model's maximum, 2048 at the time.
PROTOCOLS = {
    "shortened": Protocol(window_length=128),
    "gptq": Protocol(window_length=2048),
}


def preset(name: str, config: LlamaConfig) -> Protocol:
    """A preset of PROTOCOLS for a model: windows no longer than its maximum, BOS as it needs it.

    Raises InputError for an unknown name.
    """
    if name not in PROTOCOLS:
        raise unknown("protocol", name, PROTOCOLS)
    chosen = PROTOCOLS[name]
    length = min(chosen.window_length, config.max_position_embeddings)
    return dataclasses.replace(chosen, window_length=length, bos=config.bos)
