"""Small random models for tests, large enough in every width to tell axes apart."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jprune.llama import Llama, LlamaConfig, Origin, Rope, init

CONFIG = LlamaConfig(
    vocab_size=97,
    hidden_size=32,
    intermediate_size=56,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    max_position_embeddings=64,
)

ROPES = {
    "none": Rope(),
    "theta": Rope(theta=500000.0),
    "linear": Rope(kind="linear", factor=4.0),
    "llama3": Rope(
        theta=500000.0,
        kind="llama3",
        factor=8.0,
        low_freq_factor=1.0,
        high_freq_factor=4.0,
        original_max_position_embeddings=32,
    ),
}


# Windows of tests are longer than the sliding one; heads are wider than hidden_size / heads.
FAMILIES = {
    "llama": {},
    "mistral": {"sliding_window": 5},
    "qwen2": {"attention_bias": True, "bos": "none", "bos_token_id": None},
    "qwen3": {"qk_norm": True, "head_dim": 16, "bos": "none", "bos_token_id": None},
    "gemma": {
        "head_dim": 16,
        "norm_offset": 1.0,
        "scale_embeddings": True,
        "hidden_act": "gelu_pytorch_tanh",
        "tie_word_embeddings": True,
        "bos": "every",
    },
}


def family(name: str, num_layers: int = 3, raw: bool = False, **changes) -> Llama:
    """A tiny model of a family of `FAMILIES`; `raw` leaves its initial weights as they are."""
    changes = {"family": name, **FAMILIES[name], **changes}
    if raw:
        return init(dataclasses.replace(CONFIG, **changes), num_layers, jax.random.key(0))
    return tiny(num_layers, **changes)


def tiny(num_layers: int = 4, seed: int = 0, **changes) -> Llama:
    """A model of `num_layers` random blocks; `changes` are of its config.

    Weights are several times larger than usual, so that every block matters to the logits.
    """
    config = dataclasses.replace(CONFIG, **changes)
    llama = init(config, num_layers, jax.random.key(seed), source="tiny")
    keys = iter(jax.random.split(jax.random.key(seed + 1), 1000))

    def spread(leaf):
        if leaf.ndim == 1:  # norms and biases, which start constant
            return leaf + 0.3 * jax.random.normal(next(keys), leaf.shape)
        return 6 * leaf

    return jax.tree.map(spread, llama)


def windows(num: int, length: int, seed: int = 0, vocab: int = CONFIG.vocab_size) -> np.ndarray:
    """Random token windows."""
    return np.random.default_rng(seed).integers(0, vocab, (num, length)).astype(np.int32)


def without(llama: Llama, gates: np.ndarray) -> Llama:
    """`llama` rebuilt by hand with only the sublayers under `gates` [layers, (attn, mlp)]."""
    blocks = []
    for block, (attn, mlp) in zip(llama.blocks, gates, strict=True):
        if not attn:
            block = block.replace(attn_norm=None, attn=None)
        if not mlp:
            block = block.replace(mlp_norm=None, mlp=None)
        if attn or mlp:
            blocks.append(block)
    return llama.replace(blocks=tuple(blocks))


def finetunes(llama: Llama, *names: str, spread: float = 0.05) -> list[Llama]:
    """Models of the shape of `llama` that differ from it, and each other, by random numbers."""
    models = []
    for seed, name in enumerate(names):
        keys = iter(jax.random.split(jax.random.key(100 + seed), 1000))

        def change(leaf, keys=keys):
            noise = spread * jax.random.normal(next(keys), leaf.shape, jnp.float32)
            return (leaf.astype(jnp.float32) + noise).astype(leaf.dtype)

        model = jax.tree.map(change, llama)
        blocks = tuple(
            block.replace(origin=Origin(name, index)) for index, block in enumerate(model.blocks)
        )
        models.append(model.replace(blocks=blocks))
    return models
