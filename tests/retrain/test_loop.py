import contextlib
import dataclasses
import gc
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jprune.core.errors import InputError, Interrupted, JpruneError
from jprune.data import TrainingSet
from jprune.llama import named_params, next_token_nll, stack
from jprune.retrain import AdamW, TrainSettings, batch_indices, loop, train
from jprune.retrain.batches import Grouping, counted_lengths
from jprune.retrain.history import History
from tests.retrain.short_run import (
    SETTINGS,
    VALIDATION,
    WINDOWS,
    assert_same,
    saved_steps,
    short_run,
)
from tests.tiny import tiny, windows

ROOT = pathlib.Path(__file__).resolve().parents[2]


def test_history_has_every_step_and_validation(whole):
    rows = [row for row in whole.history if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, 11))
    assert {row["tokens"] for row in rows} == {44.0}
    np.testing.assert_allclose([row["learning_rate"] for row in rows[:3]], [0, 1.5e-3, 3e-3])
    validations = [row for row in whole.history if "validation_nll" in row]
    assert [row["step"] for row in validations] == [4, 8, 10]
    nll = next_token_nll(whole.llama, jnp.asarray(VALIDATION)).mean()
    np.testing.assert_allclose(validations[-1]["validation_nll"], nll, rtol=1e-6)
    first = WINDOWS[batch_indices(9, 4, 7, 0)]
    nll = next_token_nll(tiny(2), jnp.asarray(first)).mean()
    np.testing.assert_allclose(rows[0]["loss"], nll, rtol=1e-6)


def test_windows_are_learnt():
    settings = dataclasses.replace(
        SETTINGS, steps=60, optimizer=AdamW(learning_rate=1e-2, warmup_steps=5)
    )
    history = short_run(settings=settings, validation=None).history
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]


def test_masked_tokens_do_not_count():
    mask = np.zeros(WINDOWS.shape, bool)
    mask[:, 5:8] = True
    shuffled = WINDOWS.copy()
    shuffled[:, 8:] = np.random.default_rng(0).integers(0, 97, (9, 4))
    one = short_run(windows=TrainingSet(WINDOWS, mask), validation=None)
    assert one.history[0]["tokens"] == 12
    assert short_run(windows=TrainingSet(shuffled, mask), validation=None).history == one.history


@pytest.mark.parametrize("form", [lambda llama: llama, stack], ids=["tuple", "stacked"])
def test_frozen_parameters_stay_and_the_form_too(form):
    llama = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), form(tiny(2)))
    settings = dataclasses.replace(SETTINGS, steps=2, optimizer=AdamW(0.1, warmup_steps=0))
    trained = train(llama, WINDOWS, settings, where="**.mlp.down_proj.kernel").llama
    assert jax.tree.structure(trained) == jax.tree.structure(llama)
    before, _ = jax.tree_util.tree_flatten_with_path(llama)
    for (path, old), new in zip(before, jax.tree.leaves(trained), strict=True):
        assert new.dtype == jnp.bfloat16
        changed = "down" in jax.tree_util.keystr(path)
        assert bool(jnp.any(old != new)) == changed, path


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path):
    settings = dataclasses.replace(
        SETTINGS, checkpoint_every=1, optimizer=AdamW(float("inf"), warmup_steps=0)
    )
    message = "parameters are not finite after step 1; there is no checkpoint; lower the learning"
    with pytest.raises(JpruneError, match=message):
        short_run(tmp_path, settings=settings, validation=None)
    assert saved_steps(tmp_path) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"micro_batch_size": 3}, "micro_batch_size 3 does not divide batch_size 4"),
        ({"steps": 0}, "steps takes an integer from 1 on, not 0"),
        ({"batch_size": -4}, "batch_size takes an integer from 1 on, not -4"),
        ({"keep": 0}, "keep takes an integer from 1 on"),
        ({"optimizer": AdamW(float("nan"))}, "learning_rate takes a number from 0 on, not nan"),
        ({"optimizer": AdamW(warmup_steps=11)}, "11 warm-up steps .* do not fit in 10"),
        ({"optimizer": AdamW(warmup_steps=5, decay_steps=6)}, "6 decay steps do not fit in 10"),
    ],
)
def test_settings_that_do_not_fit(changes, message):
    with pytest.raises(InputError, match=message):
        short_run(settings=dataclasses.replace(SETTINGS, **changes))


def test_metrics_are_read_after_the_next_step_is_dispatched(whole, monkeypatch):
    events = []
    real_step, real_append = loop.train_step, History.append

    def step(state, **arguments):
        events.append("dispatch")
        return real_step(state, **arguments)

    def append(self, row):
        event = f"step {row['step']}" if "loss" in row else "validation"
        if event != events[-1]:  # metrics.jsonl gets it at once
            events.append(event)
        real_append(self, row)

    monkeypatch.setattr(loop, "train_step", step)
    monkeypatch.setattr(History, "append", append)
    assert_same(short_run(), whole)
    assert events[:8] == [
        *("dispatch", "dispatch", "step 1", "dispatch", "step 2", "dispatch", "step 3", "step 4")
    ]
    assert events[8:] == [
        *("validation", "dispatch", "dispatch", "step 5", "dispatch", "step 6", "dispatch"),
        *("step 7", "step 8", "validation", "dispatch", "dispatch", "step 9", "step 10"),
        "validation",
    ]


def test_a_bad_last_loss_is_found_without_checkpoints_too():
    settings = dataclasses.replace(SETTINGS, steps=2, optimizer=AdamW(float("inf"), warmup_steps=0))
    with pytest.raises(JpruneError, match="loss is not finite at step 2; there is no checkpoint"):
        short_run(settings=settings, validation=None)


def live_bytes():
    gc.collect()
    return sum(array.nbytes for array in jax.live_arrays())


@pytest.mark.parametrize("form", [lambda llama: llama, stack], ids=["tuple", "stacked"])
@pytest.mark.parametrize("where", ["**", "**.mlp.**"])
def test_only_masters_optimizer_and_frozen_leaves_live(form, where, monkeypatch):
    settings = dataclasses.replace(SETTINGS, steps=4)
    before, seen = live_bytes(), []
    llama = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16).astype(jnp.float32), tiny(2))
    llama = form(llama)
    sizes = {name: leaf.nbytes for name, leaf in named_params(llama).items()}
    trained = sum(size for name, size in sizes.items() if where == "**" or ".mlp." in name)

    def counted(*args):
        seen.append(live_bytes() - before)
        return batch_indices(*args)

    monkeypatch.setattr(loop, "batch_indices", counted)
    result = train(llama, WINDOWS, settings, where=where, consume=True).llama
    small = 4096  # batches, metrics, keys
    expected = 3 * trained + sum(sizes.values()) - trained
    assert len(seen) == 4 and all(abs(now - expected) < small for now in seen), (seen, expected)
    assert jax.tree.structure(result) == jax.tree.structure(llama)
    again = train(form(tiny(2)), WINDOWS, settings, where=where).llama
    for ours, theirs in zip(jax.tree.leaves(result), jax.tree.leaves(again), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=0.05)


def test_a_model_that_is_not_consumed_stays():
    llama = tiny(2)
    train(llama, WINDOWS, dataclasses.replace(SETTINGS, steps=3))
    for ours, theirs in zip(jax.tree.leaves(llama), jax.tree.leaves(tiny(2)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_default_dtype_follows_the_device():
    expected = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    assert TrainSettings(1, 1).dtype == expected
    assert TrainSettings(1, 1, compute_dtype="bfloat16").dtype == jnp.bfloat16


def ragged():
    """Windows of 96 tokens of which 3 to 90 count, the rest is padding."""
    ids, lengths = windows(9, 96, seed=5), [3, 90, 20, 30, 60, 31, 64, 65, 10]
    mask = np.arange(96)[None] < np.array(lengths)[:, None]
    return TrainingSet(np.where(mask, ids, 0), mask, mask.astype(np.int32))


def test_grouped_windows_have_the_losses_of_whole_ones(tmp_path, monkeypatch):
    settings = dataclasses.replace(SETTINGS, group_by_length=True, steps=6, validate_every=0)
    data, llama = ragged(), tiny(2, max_position_embeddings=96)
    grouped = train(llama, data, settings).history
    orders = Grouping(counted_lengths(data.mask), 96, 4, SETTINGS.seed)
    assert len({orders.step(step)[1] for step in range(6)}) > 1  # several shapes
    plain = dataclasses.replace(settings, group_by_length=False)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "batch_indices", lambda n, size, seed, step: orders.step(step)[0])
        whole = train(llama, data, plain).history
    for ours, theirs in zip(grouped, whole, strict=True):
        np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=1e-5)
    with monkeypatch.context() as patch:  # and a run that is interrupted goes on with them
        stops = iter([False, False, True])
        patch.setattr(loop, "sigterm", lambda: contextlib.nullcontext(lambda: next(stops)))
        with pytest.raises(Interrupted):
            train(llama, data, settings, checkpoint_dir=tmp_path)
    assert train(llama, data, settings, checkpoint_dir=tmp_path).history == grouped


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"windows": WINDOWS[:0]}, "there are no windows to train on"),
        ({"validation": VALIDATION[:0]}, "there are no windows to validate on"),
        (
            {"windows": windows(3, 65)},
            "windows of 65 tokens to train on are longer than the 64",
        ),
        ({"validation": windows(3, 65)}, "65 tokens to validate on are longer than the 64"),
        ({"windows": WINDOWS + 90}, "97"),
        ({"settings": dataclasses.replace(SETTINGS, keep_best=True)}, "keep_best takes windows"),
        (
            {"settings": dataclasses.replace(SETTINGS, tensorboard=True)},
            "tensorboard takes a",
        ),
    ],
)
def test_data_and_settings_that_cannot_be(arguments, message):
    with pytest.raises(InputError, match=message):
        short_run(**arguments)
