"""Between jprune's parameter names and those of tensors in Hugging Face Llama checkpoints.

Hugging Face stores projections as [out, in], jprune as [in, out]: kernels, and only kernels, are
transposed on the way.
"""

import re

import numpy as np

EMBEDDING = "model.embed_tokens.weight"
LM_HEAD = "lm_head.weight"

# Buffers that older checkpoints carry; they follow from the config.
_IGNORED = re.compile(r"(model\.layers\.\d+\.self_attn|model)\.rotary_emb\.inv_freq")
_LAYER = re.compile(r"model\.layers\.(\d+)\.")

# A strided copy that goes by bands of rows stays in the cache: two to three times as fast.
_BAND = 32


def tensor_name(leaf: str) -> str:
    """The Hugging Face name of a parameter.

    >>> tensor_name("layers.3.self_attn.q_proj.kernel")
    'model.layers.3.self_attn.q_proj.weight'
    """
    stem, kind = leaf.rsplit(".", 1)
    prefix = "" if stem == "lm_head" else "model."
    return f"{prefix}{stem}.{'bias' if kind == 'bias' else 'weight'}"


def is_transposed(leaf: str) -> bool:
    """Whether Hugging Face stores the transpose of this parameter."""
    return leaf.endswith(".kernel")


def tensor_shape(leaf: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape that Hugging Face stores a parameter of `shape` in."""
    return shape[::-1] if is_transposed(leaf) else shape


def is_ignored(tensor: str) -> bool:
    """Whether a tensor of a checkpoint carries nothing that the config does not say."""
    return _IGNORED.fullmatch(tensor) is not None


def layer_index(tensor: str) -> int | None:
    """The layer that a tensor belongs to, or None."""
    match = _LAYER.match(tensor)
    return int(match[1]) if match else None


def convert(values: np.ndarray, dtype: np.dtype, *, transpose: bool) -> np.ndarray:
    """A copy of `values` in `dtype` and row-major order, transposed if asked."""
    if not transpose:
        return np.array(values, dtype, order="C")
    result = np.empty(values.shape[::-1], dtype)
    for row in range(0, values.shape[0], _BAND):
        result[:, row : row + _BAND] = values[row : row + _BAND].T
    return result
