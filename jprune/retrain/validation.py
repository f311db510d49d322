"""The loss on windows held out, while a run goes on."""

import functools

import jax
import numpy as np

from jprune.data import TrainingSet
from jprune.retrain.batches import taken
from jprune.retrain.settings import TrainSettings
from jprune.retrain.split import join
from jprune.retrain.step import Batch, next_token_loss


def mean_nll(params, rest, data: TrainingSet, settings: TrainSettings, sharding) -> float:
    """Mean next-token NLL over all tokens that count; every batch has the same shape."""
    size = settings.batch_size // settings.micro_batches
    total = count = 0.0
    for start in range(0, len(data), size):
        batch = taken(data, slice(start, start + size))
        missing = ((0, size - len(batch.ids)), (0, 0))
        filled = jax.tree.map(lambda x, missing=missing: np.pad(x, missing)[None], batch)
        sums = _nll_sums(params, rest, jax.device_put(filled, sharding), settings.dtype)
        total, count = total + float(sums[0]), count + float(sums[1])
    return total / max(count, 1.0)


@functools.partial(jax.jit, static_argnames="dtype")
def _nll_sums(params, rest, batch: Batch, dtype):
    model = join({name: value.astype(dtype) for name, value in params.items()}, rest)
    return next_token_loss(model, jax.tree.map(lambda x: x[0], batch))
