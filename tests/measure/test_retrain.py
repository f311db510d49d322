"""What the jobs of the suite `retrain` train, and what they count."""

import jax
import numpy as np

from jprune.measure import retrain as suite
from jprune.measure import retrain_jobs
from jprune.retrain import AdamW, TrainSettings, train
from jprune.transforms import add_lora, drop_blocks
from tests.tiny import tiny

BATCH = (4, 16)


def test_each_run_is_a_step():
    """The losses are those of a run of the training loop on the same windows."""
    llama = tiny()
    whole, short, full = retrain_jobs(llama, batch=BATCH, micro_batch=2, remove=2, seed=3)
    ids = np.random.default_rng(3).integers(0, 97, BATCH).astype(np.int32)
    settings = TrainSettings(3, 4, 4, optimizer=AdamW(warmup_steps=0), compute_dtype="float32")
    bare = [llama, drop_blocks([2, 3])(llama)]
    for job, model in zip((full, short), bare, strict=True):
        assert float(job.run()) > float(job.run()) > float(job.run()), job.name
        first = train(model, ids, settings).history[0]["loss"]
        again = retrain_jobs(llama, batch=BATCH, micro_batch=2, remove=2, seed=3)
        same = again[(whole, short, full).index(job)]
        np.testing.assert_allclose(float(same.run()), first, rtol=2e-5)


def test_flops():
    llama = tiny()
    whole, short, full = retrain_jobs(llama, batch=BATCH, remove=1)
    names = ["4 blocks", "3 blocks", "4 blocks"]
    assert all(name in job.name for name, job in zip(names, (whole, short, full), strict=True))
    weights = sum(x.size for x in jax.tree.leaves(llama.blocks) if x.ndim == 2)
    head, tokens = 97 * 32, 4 * 16
    adapters = sum(x.size for x in jax.tree.leaves(add_lora()(llama).blocks) if x.ndim == 2)
    adapters -= weights
    attention = 4 * 4 * (4 * 8) * 17 // 2  # products with all before a position, of four blocks
    # Forward and what is read by linears; of the adapters also their own.
    assert whole.flops == tokens * (2 * 2 * (weights + head) + 3 * attention + 3 * 2 * adapters)
    assert full.flops == tokens * (3 * 2 * (weights + head) + 3 * attention)


def test_large_models_train_adapters_alone(monkeypatch):
    monkeypatch.setattr(suite, "MOST_TRAINED", 1000)
    assert len(retrain_jobs(tiny(), batch=BATCH)) == 2
