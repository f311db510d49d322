"""The order of the data: a pure function of seed and step, so that any step can be resumed."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Int

from jprune.core.errors import InputError
from jprune.data import TrainingSet
from jprune.retrain.step import Batch


@functools.lru_cache(maxsize=4)
def epoch_order(num_windows: int, seed: int, epoch: int) -> Int[np.ndarray, " num_windows"]:
    """The order in which epoch number `epoch` goes through the windows."""
    order = np.random.default_rng((seed, epoch)).permutation(num_windows)
    order.setflags(write=False)
    return order


def batch_indices(
    num_windows: int,
    batch_size: int,
    seed: int,
    step: int,
    order: Callable[[int], Int[np.ndarray, " num_windows"]] | None = None,
) -> Int[np.ndarray, " batch_size"]:
    """The windows of one step: epochs follow each other without a gap, each freshly shuffled.

    Args:
      num_windows: how many there are.
      batch_size: how many a step takes.
      seed: of the order.
      step: from 0 on.
      order: the order of an epoch by its number; by default `epoch_order`.

    Raises:
      InputError: there are no windows.
    """
    if num_windows < 1:
        raise InputError("there are no windows to train on")
    positions = np.arange(step * batch_size, (step + 1) * batch_size)
    order = order or functools.partial(epoch_order, num_windows, seed)
    epochs, places = np.divmod(positions, num_windows)
    indices = np.empty(batch_size, np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        indices[here] = order(int(epoch))[places[here]]
    return indices


def counted_lengths(mask: Bool[np.ndarray, "num length"]) -> Int[np.ndarray, " num"]:
    """How many tokens of each window there are up to the last that counts.

    What follows does not change the loss: attention is causal.
    """
    pieces = [np.zeros(0, np.int64)]
    for start in range(0, len(mask), 2**16):  # of a mapped file only so much is held
        piece = np.asarray(mask[start : start + 2**16])
        last = piece.shape[1] - np.argmax(piece[:, ::-1], axis=1)
        pieces.append(np.where(piece.any(axis=1), last, 0))
    return np.concatenate(pieces)


def bucket(length: int, most: int) -> int:
    """The least of 32, 64, 96, 128, 192, 256, 384, ... that holds `length` tokens, at most `most`.

    Two for every doubling: a program is compiled for each, and at most a third of it is padding.
    """
    width = 32
    while width < length:
        # 2^n is followed by 3 * 2^(n - 1), and that by 2^(n + 1).
        power = width & (width - 1) == 0
        width = (width * 3 // 2 if power else width * 4 // 3) if width >= 64 else 64
    return min(width, most)


@dataclasses.dataclass(frozen=True, eq=False)
class Grouping:
    """Steps whose windows are of like length.

    An epoch is shuffled, sorted by bucket without changing the order within one, cut into steps,
    and these are shuffled. What is left at its end begins the step that the next epoch completes.

    Attributes:
      lengths: of the windows; see `counted_lengths`.
      most: the length that windows have in the data.
      batch_size: windows per step.
      seed: of the order.
    """

    lengths: Int[np.ndarray, " num"]
    most: int
    batch_size: int
    seed: int

    def step(self, step: int) -> tuple[Int[np.ndarray, " batch_size"], int]:
        """The windows of one step, and the bucket that holds the longest of them.

        Raises:
          InputError: there are no windows.
        """
        chosen = batch_indices(len(self.lengths), self.batch_size, self.seed, step, self.order)
        return chosen, bucket(int(self.lengths[chosen].max()), self.most)

    def order(self, epoch: int) -> Int[np.ndarray, " num"]:
        """The order in which epoch number `epoch` goes through the windows."""
        return _grouped_order(self, epoch)


@functools.lru_cache(maxsize=4)
def _grouped_order(grouping: Grouping, epoch: int) -> Int[np.ndarray, " num"]:
    num, size = len(grouping.lengths), grouping.batch_size
    rng = np.random.default_rng((grouping.seed, epoch, 1))
    order = rng.permutation(num)
    widths = np.array([bucket(n, grouping.most) for n in range(grouping.most + 1)])
    order = order[np.argsort(widths[grouping.lengths[order]], kind="stable")]
    begun = min(-epoch * num % size, num)  # what the step still lacks that the last epoch began
    whole = (num - begun) // size
    steps = rng.permutation(order[: whole * size].reshape(whole, size)).reshape(-1)
    rest = order[whole * size :]
    order = np.concatenate([rest[:begun], steps, rest[begun:]])
    order.setflags(write=False)
    return order


def taken(data: TrainingSet, chosen: Int[np.ndarray, " chosen"] | slice) -> Batch:
    """Some windows, in memory."""
    segments = None if data.segments is None else data.segments[chosen].astype(np.int32)
    return Batch(data.ids[chosen].astype(np.int32), np.asarray(data.mask[chosen]), segments)
