"""Training whose checkpoints are on an object store."""

import os
import signal
import subprocess
import sys

import pytest

from jprune.core.errors import InputError
from tests.retrain import short_run as script
from tests.retrain.short_run import short_run
from tests.retrain.test_loop import assert_same
from tests.standins.gcs_store import Trap

T = "gs://bucket/T"


def test_killed_while_saving_it_continues_to_identical_losses(gcs):
    whole = short_run()
    gcs.visible = True
    gcs.trap = trap = Trap("T/steps/6/.*/d/.*")
    path = os.pathsep.join(filter(None, sys.path))
    env = os.environ | gcs.environment | {"PYTHONPATH": path, "JPRUNE_TYPECHECK": "0"}
    process = subprocess.Popen([sys.executable, script.__file__, T, "step", "99"], env=env)
    try:
        assert trap.sprung.wait(120)
    finally:
        process.kill()
    assert process.wait() == -signal.SIGKILL
    trap.opened.set()
    gcs.trap = None
    assert any(name.startswith("T/steps/6/") for name in gcs.objects)
    assert "T/steps/6/commit_success.txt" not in gcs.objects
    assert_same(short_run(T), whole)
    assert "T/steps/10/commit_success.txt" in gcs.objects


def test_a_missing_permission_is_named(gcs):
    gcs.buckets["private"] = {}
    with pytest.raises(InputError, match="cannot keep checkpoints in gs://private/T.*buckets.get"):
        short_run("gs://private/T")
