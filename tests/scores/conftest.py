"""The trained model and its reference figures, where they are at hand."""

import json

import numpy as np
import pytest

from jprune.checkpoints import load


@pytest.fixture(scope="module")
def golden(shared):
    """What the published algorithms give on the windows of `golden_ids`."""
    return json.loads((shared / "goldens" / "llama-16m.json").read_text())


@pytest.fixture(scope="module")
def golden_ids(shared):
    """Token windows by name."""
    with np.load(shared / "goldens" / "llama-16m.npz") as file:
        names = [name for name in file if name.startswith(("eval", "calib"))]
        return {name: file[name].astype(np.int32) for name in names}


@pytest.fixture(scope="module")
def llama_16m(shared):
    return load(shared / "models" / "llama-16m", dtype="float32")
