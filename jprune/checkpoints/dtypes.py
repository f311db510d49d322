"""Dtypes that parameters may have, by the names that people and files use."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jprune.core.errors import unknown

PARAMETER_DTYPES = ("float32", "bfloat16", "float16")

# Safetensors' name of every dtype that holds parameters. JAX computes in 32 bits at most unless
# told otherwise, so a float64 tensor is read and rounded, never kept.
SAFETENSORS_DTYPES = {
    "F64": np.dtype("float64"),
    "F32": np.dtype("float32"),
    "BF16": np.dtype(jnp.bfloat16),
    "F16": np.dtype("float16"),
}

_SHORT = {"fp32": "float32", "f32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def as_dtype(dtype: Any) -> np.dtype:
    """The dtype of a name (`"bfloat16"`, `"bf16"`, `"torch.bfloat16"`), dtype or scalar type.

    Raises InputError for anything that parameters cannot have.
    """
    name = dtype if isinstance(dtype, str) else np.dtype(dtype).name
    name = name.removeprefix("torch.")
    name = _SHORT.get(name, name)
    if name not in PARAMETER_DTYPES:
        raise unknown("dtype", name, PARAMETER_DTYPES)
    return np.dtype(name) if name != "bfloat16" else np.dtype(jnp.bfloat16)


def target_dtype(dtype: Any, own: np.dtype) -> np.dtype:
    """The dtype to load parameters in.

    Args:
      dtype: a dtype or its name; `"checkpoint"` for `own`; None for float32 on CPU, where lower
        precision is slower, and `own` on other devices.
      own: the dtype of the checkpoint.
    """
    if dtype is None:
        return np.dtype("float32") if jax.default_backend() == "cpu" else own
    return own if isinstance(dtype, str) and dtype == "checkpoint" else as_dtype(dtype)


def safetensors_name(dtype: Any) -> str:
    """The name that safetensors headers use for a parameter dtype."""
    names = {value: key for key, value in SAFETENSORS_DTYPES.items()}
    return names[np.dtype(dtype)]
