"""Notices of preemption: from JAX's service where it runs, never without."""

import jax
import pytest
from jax.experimental import multihost_utils

from jprune.retrain.stopping import preempted


@pytest.mark.parametrize(
    ("distributed", "service", "expected"),
    [(True, True, True), (True, False, False), (False, True, False)],
)
def test_the_service_is_asked_where_it_runs(distributed, service, expected, monkeypatch):
    asked = []
    monkeypatch.setattr(jax.distributed, "is_initialized", lambda: distributed)
    monkeypatch.setattr(
        multihost_utils, "reached_preemption_sync_point", lambda step: asked.append(step) or True
    )
    before = jax.config.jax_enable_preemption_service
    jax.config.update("jax_enable_preemption_service", service)
    try:
        assert preempted(7) is expected
    finally:
        jax.config.update("jax_enable_preemption_service", before)
    assert asked == [7] * expected
