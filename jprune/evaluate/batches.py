"""Windows in batches of one fixed shape, so that a program is compiled once."""

from collections.abc import Callable, Iterator

import jax
import numpy as np
from jaxtyping import Array, Int

from jprune.core.progress import progress
from jprune.llama.model import Llama

# Tokens per step: enough to fill the device's matrix units, few enough for activations to stay
# small. On two CPU cores anything from 512 to 8192 took about as long on a model of 16M parameters.
TOKENS_PER_STEP = {"cpu": 2048}
DEFAULT_TOKENS_PER_STEP = 16384


def window_batch_size(shape: tuple[int, int], llama: Llama) -> int:
    """Windows per step for windows of `shape` [windows, length] on the device of `llama`."""
    windows, length = shape
    tokens = TOKENS_PER_STEP.get(jax.default_backend(), DEFAULT_TOKENS_PER_STEP)
    return max(1, min(windows, tokens // length))


def map_batches(
    function: Callable[[np.ndarray], Array],
    ids: Int[np.ndarray, "windows length"],
    batch_size: int,
    label: str,
) -> list[np.ndarray]:
    """`function` of every batch (see `batched`), with progress; the host is one batch ahead."""
    results: list[Array] = []
    for batch in progress(list(batched(ids, batch_size)), label, unit="batch"):
        results.append(function(batch))
        if len(results) > 1:
            results[-2].block_until_ready()
    return [np.asarray(result) for result in results]


def batched(
    ids: Int[np.ndarray, "windows length"], batch_size: int
) -> Iterator[Int[np.ndarray, "batch length"]]:
    """`ids` in batches of exactly `batch_size`; the last one is filled up with its last window.

    What is computed for the filling is for the caller to drop: it comes after the last window.
    """
    for first in range(0, len(ids), batch_size):
        batch = ids[first : first + batch_size]
        yield np.pad(batch, ((0, batch_size - len(batch)), (0, 0)), mode="edge")
