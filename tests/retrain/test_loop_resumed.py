"""Runs that are stopped, and what their checkpoints are good for."""

import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from jprune.core.errors import InputError, Interrupted, JpruneError
from jprune.retrain import batch_indices, loop, read_history
from jprune.retrain.checkpoint import Checkpoints
from tests.retrain import short_run as script
from tests.retrain.short_run import (
    SETTINGS,
    WINDOWS,
    assert_same,
    saved_steps,
    send_at,
    short_run,
)

ROOT = pathlib.Path(__file__).resolve().parents[2]


def run_and_die(folder, when, step):
    command = [sys.executable, script.__file__, str(folder), when, str(step)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "JPRUNE_TYPECHECK": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_killed_runs_continue_to_identical_losses(tmp_path, whole):
    run_and_die(tmp_path, "step", 7)  # seven steps done, six of them saved
    assert saved_steps(tmp_path) == [3, 6]
    run_and_die(tmp_path, "saving", 9)
    assert saved_steps(tmp_path) == [3, 6]
    assert read_history(tmp_path / "losses.jsonl")[-1]["step"] == 9
    result = short_run(tmp_path)
    assert_same(result, whole)
    assert read_history(tmp_path / "losses.jsonl") == whole.history
    timed = read_history(tmp_path / "metrics.jsonl")
    speed = ("seconds", "tokens_per_second", "mfu")
    assert [{k: v for k, v in row.items() if k not in speed} for row in timed] == whole.history
    for row in timed:
        if "loss" in row:
            np.testing.assert_allclose(row["seconds"] * row["tokens_per_second"], 48)
            assert row["mfu"] is None  # of a CPU no peak is known
    assert_same(short_run(tmp_path), whole)  # nothing is left to do


def test_sigterm_saves_and_raises(tmp_path, whole, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        send_at(signal.SIGTERM, 4, patch)
        with pytest.raises(Interrupted, match="after step 5; saved"):
            short_run(tmp_path)
    assert signal.getsignal(signal.SIGTERM) is before
    assert saved_steps(tmp_path) == [3, 5]
    steps = []
    monkeypatch.setattr(
        "jprune.retrain.loop.batch_indices",
        lambda *args: steps.append(args[3]) or batch_indices(*args),
    )
    assert_same(short_run(tmp_path), whole)
    assert steps == [5, 6, 7, 8, 9]


def test_checkpoints_of_another_run_are_refused(tmp_path):
    short = dataclasses.replace(SETTINGS, steps=3)
    short_run(tmp_path, settings=short)
    with pytest.raises(InputError, match=r"another run \(different: settings\)"):
        short_run(tmp_path, settings=dataclasses.replace(short, seed=8))
    with pytest.raises(InputError, match=r"another run \(different: data\)"):
        short_run(tmp_path, settings=short, windows=WINDOWS[:8])
    often = dataclasses.replace(short, checkpoint_every=1, keep=1)
    assert len(short_run(tmp_path, settings=often).history) == 4


def test_only_the_last_checkpoints_are_kept(tmp_path):
    short_run(tmp_path, settings=dataclasses.replace(SETTINGS, checkpoint_every=1, keep=2))
    assert saved_steps(tmp_path) == [9, 10]
    with Checkpoints(tmp_path / "empty", {}) as empty:
        assert empty.latest is None


def test_a_bad_loss_leaves_the_last_good_checkpoint(tmp_path, whole, monkeypatch):
    real = loop.train_step

    def step(state, **arguments):
        state, metrics = real(state, **arguments)
        if int(state.step) < 8:
            return state, metrics
        params = {name: x * jnp.nan for name, x in state.params.items()}
        return state.replace(params=params), metrics._replace(loss=jnp.nan)

    message = f"loss is not finite at step 8; the checkpoint of step 6 is kept in {tmp_path}; lower"
    with monkeypatch.context() as patch:
        patch.setattr(loop, "train_step", step)
        with pytest.raises(JpruneError, match=message):
            short_run(tmp_path)
    assert saved_steps(tmp_path) == [3, 6]
    assert_same(short_run(tmp_path), whole)


def test_the_best_checkpoint_is_kept_beside_the_last(tmp_path, monkeypatch):
    losses = iter([3.0, 1.0, 2.0, 1.5, 1.2])
    monkeypatch.setattr(loop, "mean_nll", lambda *args, **kwargs: next(losses))
    settings = dataclasses.replace(
        SETTINGS, checkpoint_every=3, validate_every=2, keep=2, keep_best=True
    )
    short_run(tmp_path, settings=settings)
    assert saved_steps(tmp_path) == [4, 9, 10]
    identity = json.loads((tmp_path / "training.json").read_text())
    with Checkpoints(tmp_path, identity, keep_best=True) as store:
        assert (store.best, store.latest) == (4, 10)
        assert store.would_be_best(0.9) and not store.would_be_best(1.0)


def test_a_notice_of_preemption_saves_and_stops(tmp_path, whole, monkeypatch):
    asked = []
    with monkeypatch.context() as patch:
        patch.setattr(loop, "preempted", lambda step: asked.append(step) or step == 5)
        with pytest.raises(Interrupted, match="after step 5; saved"):
            short_run(tmp_path)
    assert asked == [1, 2, 3, 4, 5] and saved_steps(tmp_path) == [3, 5]
    assert_same(short_run(tmp_path), whole)
