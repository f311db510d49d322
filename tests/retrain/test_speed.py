"""Seconds, tokens per second and model FLOP utilisation of steps, and where they are shown."""

import sys
import types

import jax
import pytest

from jprune.core.errors import InputError
from jprune.core.mesh import use_mesh
from jprune.llama import named_params
from jprune.llama.flops import training_flops
from jprune.retrain import speed as module
from jprune.retrain.history import summary
from jprune.retrain.speed import Speed
from jprune.retrain.tensorboard import Curves
from tests.tiny import tiny


def speed(monkeypatch, times, peak=1e6):
    llama = tiny(2)
    monkeypatch.setattr(module, "peak_flops", lambda device: peak)
    return Speed(llama, list(named_params(llama)), iter(times).__next__), llama


def test_a_step_lasts_from_the_end_of_the_one_before_or_its_own_begin(monkeypatch):
    # Made at 0; done at 10, 14 and 30.
    clocked, llama = speed(monkeypatch, [0.0, 10.0, 14.0, 30.0])
    assert clocked.step(2.0, 4, 12)["seconds"] == 8.0
    second = clocked.step(7.0, 4, 12)  # dispatched while the first ran
    assert second["seconds"] == 4.0 and second["tokens_per_second"] == 12.0
    flops = training_flops(llama, named_params(llama), 48, 12)
    assert second["mfu"] == pytest.approx(flops / 4.0 / 1e6)
    third = clocked.step(28.0, 4, 6)  # after a validation, with shorter windows
    assert third["seconds"] == 2.0 and third["tokens_per_second"] == 12.0
    shorter = training_flops(llama, named_params(llama), 24, 6)
    assert third["mfu"] == pytest.approx(shorter / 2.0 / 1e6)


@pytest.mark.skipif(len(jax.devices()) < 8, reason="needs eight devices")
def test_the_peak_is_that_of_all_devices(monkeypatch):
    alone, _ = speed(monkeypatch, [0.0, 1.0])
    with use_mesh("data:8"):
        spread, _ = speed(monkeypatch, [0.0, 1.0])
    assert alone.step(0.0, 4, 12)["mfu"] == pytest.approx(8 * spread.step(0.0, 4, 12)["mfu"])


def test_a_line_of_progress():
    row = {"step": 3, "loss": 2.34567, "tokens_per_second": 12345.6, "mfu": 0.4567}
    assert summary(row) == "loss 2.3457, 1.235e+04 tokens/s, MFU 45.7%"
    assert summary(row | {"mfu": None}) == "loss 2.3457, 1.235e+04 tokens/s"
    assert summary({"step": 3, "validation_nll": 2.0}) == ""


def test_curves(monkeypatch, tmp_path):
    written = []

    class SummaryWriter:
        def __init__(self, folder, purge_step):
            written.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            written.append((name, value, step))

        def close(self):
            written.append("closed")

    fake = types.SimpleNamespace(SummaryWriter=SummaryWriter)
    monkeypatch.setitem(sys.modules, "tensorboardX", fake)
    with Curves(tmp_path, 3) as curves:
        curves.add({"step": 4, "loss": 2.0, "mfu": None})
    assert written == [(str(tmp_path), 4), ("loss", 2.0, 4), "closed"]


def test_curves_without_their_package(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(InputError, match=r"tensorboardX: pip install 'jprune\[tensorboard\]'"):
        Curves(tmp_path, 0)
