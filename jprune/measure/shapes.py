"""Published model shapes, to be measured with random weights."""

import dataclasses
from types import MappingProxyType

from jprune.core.errors import unknown
from jprune.llama import LlamaConfig, Rope


@dataclasses.dataclass(frozen=True)
class Shape:
    """A model's hyperparameters and its number of blocks."""

    config: LlamaConfig
    num_layers: int


def _shape(layers, hidden, mlp, heads, kv_heads, vocab=32000, length=4096, rope=Rope()):  # noqa: B008
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=mlp,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=hidden // heads,
        max_position_embeddings=length,
        rms_norm_eps=1e-5,
        rope=rope,
    )
    return Shape(config, layers)


_LLAMA3 = Rope(theta=500000.0)

SHAPES = MappingProxyType(
    {
        "llama2-7b": _shape(32, 4096, 11008, 32, 32),
        "llama2-13b": _shape(40, 5120, 13824, 40, 40),
        "llama2-70b": _shape(80, 8192, 28672, 64, 8),
        "llama3-8b": _shape(32, 4096, 14336, 32, 8, 128256, 8192, _LLAMA3),
        "tinyllama-1b": _shape(22, 2048, 5632, 32, 4, length=2048),
        "llama-16m": _shape(20, 256, 688, 8, 4, 4096, 512),
    }
)


def shape_named(name: str) -> Shape:
    """The shape of a name of `SHAPES`.

    Raises:
      InputError: there is none.
    """
    if name not in SHAPES:
        raise unknown("shape", name, SHAPES)
    return SHAPES[name]
