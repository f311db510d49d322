"""Windows in batches of one fixed shape, so that a program is compiled once."""

from collections.abc import Callable, Iterator

import jax
import numpy as np
from jaxtyping import Array, Int

from jprune.core.mesh import batch_parts, put_batch
from jprune.core.processes import to_host
from jprune.core.progress import progress
from jprune.llama.kernels import ArrayLike

# Tokens per step: enough to fill the device's matrix units, few enough for activations to stay
# small. On two CPU cores leave-one-out perplexity of a model of 16M parameters took 22, 18 and 32 s
# with 512, 1024 and 2048 tokens: larger buffers are given back to the system after every program.
TOKENS_PER_STEP = {"cpu": 1024}
DEFAULT_TOKENS_PER_STEP = 16384


def window_batch_size(shape: tuple[int, int]) -> int:
    """Windows per step for windows of `shape` [windows, length] on the device at hand.

    What suits the device, spread over the steps so that little of the last is filling. On a mesh it
    is a multiple of the number of groups of devices that a batch is split over.
    """
    windows, length = shape
    parts = batch_parts()
    tokens = TOKENS_PER_STEP.get(jax.default_backend(), DEFAULT_TOKENS_PER_STEP)
    steps = -(-windows // max(1, parts * tokens // length))
    return -(-windows // (steps * parts)) * parts


def map_batches(
    function: Callable[[ArrayLike], Array],
    ids: Int[np.ndarray, "windows length"],
    batch_size: int,
    label: str,
) -> list[np.ndarray]:
    """`function` of every batch (see `batched`), with progress; the host is one batch ahead.

    Batches are split over the ambient mesh; the results are whole again, on every process.
    """
    results: list[Array] = []
    for batch in progress(list(batched(ids, batch_size)), label, unit="batch"):
        results.append(function(put_batch(batch)))
        if len(results) > 1:
            results[-2].block_until_ready()
    return [to_host(result) for result in results]


def batched(
    ids: Int[np.ndarray, "windows length"], batch_size: int
) -> Iterator[Int[np.ndarray, "batch length"]]:
    """`ids` in batches of exactly `batch_size`; the last one is filled up with its last window.

    What is computed for the filling is for the caller to drop: it comes after the last window.
    """
    for first in range(0, len(ids), batch_size):
        batch = ids[first : first + batch_size]
        yield np.pad(batch, ((0, batch_size - len(batch)), (0, 0)), mode="edge")
