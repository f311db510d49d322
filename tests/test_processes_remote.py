"""Two real processes that write one folder in place on an object store."""

import json

import jax
import numpy as np
import pytest

from jprune.checkpoints import export_huggingface, load
from jprune.transforms import drop_blocks, drop_sublayers
from tests.several import finish, start
from tests.tiny import tiny

PROGRAM = """
import os, sys, time
from jprune.cli.main import main
from jprune.core import files

is_remote = files.is_remote

def slow(path):
    if os.environ["JAX_PROCESS_ID"] == "1":
        time.sleep(0.5)  # it must not clear what the first process has written by then
    return is_remote(path)

files.is_remote = slow
for line in sys.argv[1:]:
    print("status", main(line.split()), flush=True)
"""


@pytest.mark.parametrize(
    ("option", "expected"),
    [("--blocks=0", drop_blocks([0])), ("--attention=1", drop_sublayers(attention=[1]))],
)
def test_one_whole_folder(gcs, tmp_path, option, expected):
    llama = tiny(3, vocab_size=96)
    export_huggingface(tmp_path / "model", llama)
    # The second time there is something to replace.
    command = f"prune {option} --model={tmp_path / 'model'} --out=gs://bucket/out --mesh=fsdp:4"
    for said, err in finish(start(PROGRAM, command, command)):
        assert [line for line in said.splitlines() if "status" in line] == ["status 0"] * 2, err
    written = {name.removeprefix("out/") for name in gcs.objects}
    manifest = json.loads(gcs.objects["out/jprune_manifest.json"])
    assert written == {*manifest["files"], "jprune_manifest.json"}
    for new, old in zip(
        jax.tree.leaves(load("gs://bucket/out")), jax.tree.leaves(expected(llama)), strict=True
    ):
        np.testing.assert_array_equal(new, old)
