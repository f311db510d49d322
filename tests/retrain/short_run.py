"""A short run on a tiny model, also as a script that kills itself: short_run.py DIR WHEN STEP."""

import os
import signal
import sys

import jax
import jax.numpy as jnp
import numpy as np

from jprune.retrain import AdamW, TrainSettings, loop, train
from tests.tiny import tiny, windows

SETTINGS = TrainSettings(
    steps=10,
    batch_size=4,
    micro_batch_size=2,
    seed=7,
    optimizer=AdamW(learning_rate=3e-3, warmup_steps=2),
    checkpoint_every=3,
    validate_every=4,
)
WINDOWS = windows(9, 12, seed=1)
VALIDATION = windows(3, 12, seed=2)


def short_run(folder=None, **changes):
    arguments = {"validation": VALIDATION, "checkpoint_dir": folder} | changes
    settings = arguments.pop("settings", SETTINGS)
    return train(tiny(2), arguments.pop("windows", WINDOWS), settings, **arguments)


def assert_same(result, whole):
    """Two runs have every figure and every weight in common, bit for bit."""
    assert result.history == whole.history
    for ours, theirs in zip(
        jax.tree.leaves(result.llama), jax.tree.leaves(whole.llama), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def saved_steps(folder):
    """The steps that have checkpoints."""
    return sorted(int(path.name) for path in (folder / "steps").iterdir() if path.name.isdigit())


def send_at(number, step, monkeypatch=None):
    """Sends this process a signal while the batch of a step (from 0) is being made."""
    real = loop.batch_indices

    def batch_indices(num_windows, batch_size, seed, current):
        if current == step:
            os.kill(os.getpid(), number)
        return real(num_windows, batch_size, seed, current)

    if monkeypatch is None:
        loop.batch_indices = batch_indices
    else:
        monkeypatch.setattr(loop, "batch_indices", batch_indices)


def kill_while_saving(step):
    """SIGKILL when the losses are written and the arrays of the checkpoint are half written."""
    real = loop.Checkpoints.save

    def save(self, state, *validation):
        if int(state.step) == step:
            half = self.folder / "steps" / f"{step}.orbax-checkpoint-tmp" / "default"
            half.mkdir(parents=True)
            (half / "manifest.ocdbt").write_bytes(np.asarray(jnp.arange(9)).tobytes())
            os.kill(os.getpid(), signal.SIGKILL)
        real(self, state, *validation)

    loop.Checkpoints.save = save


if __name__ == "__main__":
    folder, when, step = sys.argv[1], sys.argv[2], int(sys.argv[3])
    send_at(signal.SIGKILL, step) if when == "step" else kill_while_saving(step)
    short_run(folder)
