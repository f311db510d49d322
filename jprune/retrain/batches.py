"""The order of the data: a pure function of seed and step, so that any step can be resumed."""

import functools

import numpy as np
from jaxtyping import Int

from jprune.core.errors import InputError


@functools.lru_cache(maxsize=4)
def epoch_order(num_windows: int, seed: int, epoch: int) -> Int[np.ndarray, " num_windows"]:
    """The order in which epoch number `epoch` goes through the windows."""
    order = np.random.default_rng((seed, epoch)).permutation(num_windows)
    order.setflags(write=False)
    return order


def batch_indices(
    num_windows: int, batch_size: int, seed: int, step: int
) -> Int[np.ndarray, " batch_size"]:
    """The windows of one step: epochs follow each other without a gap, each freshly shuffled.

    Raises:
      InputError: there are no windows.
    """
    if num_windows < 1:
        raise InputError("there are no windows to train on")
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs, places = np.divmod(positions, num_windows)
    indices = np.empty(batch_size, np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        indices[here] = epoch_order(num_windows, seed, int(epoch))[places[here]]
    return indices
