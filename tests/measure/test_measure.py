"""Benchmarks count what they say they count."""

import jax
import numpy as np
import pytest

from jprune.core.errors import InputError
from jprune.llama import forward_flops, llama_spec, stack
from jprune.llama.flops import block_flops, head_flops
from jprune.measure import Ceilings, Job, Measurement, measure, score_jobs, shape_named, timing
from jprune.measure.scores import leave_one_out_flops
from tests.tiny import tiny


def test_a_shape_has_the_published_number_of_parameters():
    sizes = {"llama2-7b": 6738415616, "llama2-70b": 68976648192, "llama3-8b": 8030261248}
    for name, size in sizes.items():
        shape = shape_named(name)
        specs = jax.tree.leaves(llama_spec(shape.config, shape.num_layers))
        assert sum(int(np.prod(spec.shape)) for spec in specs) == size
    with pytest.raises(InputError, match="unknown shape 'llama2-7'; did you mean 'llama2-7b'"):
        shape_named("llama2-7")


def test_flops_of_leaving_out_each_block():
    llama = tiny(3)
    block = block_flops(llama.blocks[0], 8)
    # The full model runs 3 blocks, without block 0: 2 more, without block 1: 1, without block 2: 0.
    expected = 16 * (6 * block + 4 * head_flops(llama))
    assert leave_one_out_flops(llama, 16, 8) == expected
    assert leave_one_out_flops(stack(llama), 16, 8) == expected


def test_the_first_run_is_compilation_and_the_median_counts(monkeypatch):
    clock = iter([0.0, 5.0, 10.0, 11.0, 20.0, 24.0, 30.0, 32.0])
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    calls = []
    result = measure(Job("nap", lambda: calls.append(1), flops=10**9), repeats=3)
    assert len(calls) == 4
    # The first run took 5 seconds, the others 1, 4 and 2.
    assert (result.seconds, result.slowest, result.compile_seconds) == (2.0, 4.0, 3.0)


def test_programs_compiled_after_the_first_run_are_counted():
    sizes = iter([3, 3, 5, 5, 7])
    function = jax.jit(lambda x: x + 12.5)
    job = Job("grow", lambda: function(np.ones(next(sizes), np.float32)), flops=1)
    assert measure(job, repeats=4).compilations == 2


def test_utilisation_and_limits():
    result = Measurement("x", 2.0, 2.0, 0.0, flops=10**12)
    assert result.utilisation(1e12) == 0.5 and result.utilisation(None) is None
    ceilings = Ceilings(flops=1e12, bandwidth=1e9)
    assert ceilings.limit(3 * 10**12) == 3.0 and ceilings.limit(10**12, 5 * 10**9) == 5.0


def test_jobs_of_the_suite_run_and_know_their_flops():
    llama = stack(tiny(3))
    loo, taylor, ppl = score_jobs(llama, calibration=(2, 8), evaluation=(3, 16))
    assert len(loo.run()) == 3 and len(taylor.run()) == 3 and ppl.run() > 0
    assert taylor.flops == 3 * forward_flops(llama, 16, 8)
    assert ppl.flops == forward_flops(llama, 48, 16)
