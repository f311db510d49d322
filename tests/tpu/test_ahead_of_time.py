"""Programs at full size compile for TPUs that are not here, and fit the memory of their chips.

The compiler is libtpu's, in a process of its own: this one keeps its CPU devices.
"""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
GIB = 2**30
MARGIN = 0.9  # what the runtime keeps for itself, and fragments

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="libtpu, TPU's compiler, is not installed: pip install 'jax[tpu]'",
)


@pytest.fixture(scope="module", params=[("v5e:2x4", 16), ("v6e:2x4", 32)], ids=lambda p: p[0])
def compiled(request):
    """The figures of every job on a topology of eight chips, and a chip's memory in bytes."""
    topology, gib = request.param
    # No metadata server is asked what TPU this host has, and others may load libtpu meanwhile.
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "PYTHONPATH": str(ROOT),
    }
    script = pathlib.Path(__file__).with_name("compile_for_tpu.py")
    jobs = ["perplexity:32x2048", "leave_one_out:12x128", "taylor:12x128", "lora:64x256"]
    done = subprocess.run(
        [sys.executable, script, topology, "fsdp:4,tensor:2", *jobs],
        env=env,
        capture_output=True,
        text=True,
        timeout=1200,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), gib * GIB


def test_it_fits(compiled):
    jobs, memory = compiled
    for name, figures in jobs.items():
        held = sum(figures[part] for part in ("model", "held", "programs"))
        assert held < MARGIN * memory, (name, held / GIB)


def test_nothing_large_is_held_whole(compiled):
    jobs, _ = compiled
    for name, figures in jobs.items():
        # An eighth of 6.74e9 parameters in two bytes each.
        assert 0.99 < figures["model"] / (2 * 6.74e9 / 8) < 1.05, name
        assert 0.99 < figures["arguments"] / figures["share"] < 1.05, name


def test_flash_attention_runs_where_windows_are_long(compiled):
    jobs, _ = compiled
    kernels = {name: figures["kernels"] for name, figures in jobs.items()}
    assert kernels["perplexity:32x2048"] > 0
    assert kernels["leave_one_out:12x128"] == kernels["taylor:12x128"] == 0
