"""Training on one, two, four and eight simulated devices: the same losses."""

import jax
import numpy as np
import pytest

from jprune.core.mesh import batch_sharding, parse_mesh, use_mesh
from jprune.data import TrainingSet
from jprune.llama.names import leaf_name
from jprune.llama.sharding import on_mesh
from jprune.retrain import AdamW, TrainSettings, train
from tests.tiny import tiny, windows

SETTINGS = TrainSettings(
    steps=20,
    batch_size=8,
    optimizer=AdamW(learning_rate=3e-3, warmup_steps=2),
    compute_dtype="float32",
)


def data():
    """Windows of two documents each."""
    ids = windows(16, 16, seed=1, vocab=96)
    segments = np.where(np.arange(16) < 7, 1, 2).astype(np.int32)
    return TrainingSet(ids, np.ones(ids.shape, bool), np.broadcast_to(segments, ids.shape))


def losses(mesh, devices):
    llama = tiny(2, vocab_size=96)
    mesh = parse_mesh(mesh, jax.devices()[:devices])
    if devices > 1:
        place = on_mesh(mesh, llama.config)
        llama = jax.tree_util.tree_map_with_path(
            lambda path, x: jax.device_put(x, place(leaf_name(path), x.shape)), llama
        )
    with use_mesh(mesh):
        sharding = batch_sharding((1, 8, 16), axis=1)
        history = train(llama, data(), SETTINGS, batch_sharding=sharding).history
    return [row["loss"] for row in history]


@pytest.fixture(scope="module")
def alone():
    return losses("data:1", 1)


@pytest.mark.skipif(len(jax.devices()) < 8, reason="needs eight devices")
@pytest.mark.parametrize(
    ("mesh", "devices"),
    [("data:2", 2), ("fsdp:4", 4), ("tensor:2", 2), ("data:2,fsdp:2,tensor:2", 8)],
)
def test_twenty_steps(mesh, devices, alone):
    assert alone[-1] < 0.9 * alone[0]  # 20 steps matter
    np.testing.assert_allclose(losses(mesh, devices), alone, rtol=1e-5)
