"""Merges of llama-16m's finetunes against what the published methods give."""

import json

import numpy as np
import pytest

from jprune.checkpoints import load
from jprune.evaluate import perplexity
from jprune.llama import named_params
from jprune.transforms import StitchPlan, merge_models, stitch_models

NAMES = ("math", "code", "chat")
MERGES = {
    "linear_1_1_1": ("linear", {"weights": [1, 1, 1]}),
    "linear_3_2_1": ("linear", {"weights": [3, 2, 1]}),
    "task_arithmetic_0.3": ("task_arithmetic", {"factor": 0.3}),
    "task_arithmetic_0.5": ("task_arithmetic", {"factor": 0.5}),
    "task_arithmetic_1.0": ("task_arithmetic", {"factor": 1.0}),
    "ties_keep0.2_1.0": ("ties", {"density": 0.2, "factor": 1.0}),
    "ties_keep0.5_0.7": ("ties", {"density": 0.5, "factor": 0.7}),
    "slerp_math_code_0.3": ("slerp", {"t": 0.3}),
}


@pytest.fixture(scope="module")
def golden(shared):
    return json.loads((shared / "goldens" / "merges.json").read_text())


@pytest.fixture(scope="module")
def arrays(shared):
    with np.load(shared / "goldens" / "merges.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def models(shared):
    """The base and its three finetunes."""
    names = ["llama-16m", *(f"llama-16m-{name}" for name in NAMES)]
    return [load(shared / "models" / name, dtype="float32") for name in names]


def check_perplexities(llama, expected, arrays):
    for name in NAMES:
        found = perplexity(llama, arrays[f"windows_{name}"].astype(np.int32)).ppl
        assert found == pytest.approx(expected[name], rel=5e-4), name


def parameter(tensor):
    """jprune's name of a weight of Hugging Face's."""
    return tensor.removeprefix("model.").replace(".weight", ".kernel")


def test_every_merge_is_tested(golden):
    assert {*MERGES, "stitched", "base", *NAMES} == set(golden)


@pytest.mark.parametrize("entry", MERGES)
def test_merged_models(golden, arrays, models, entry):
    method, options = MERGES[entry]
    base, *variants = models
    merged = merge_models(variants[: 2 if method == "slerp" else 3], method, base=base, **options)
    params = named_params(merged)
    stored = {name.partition("/")[2]: x for name, x in arrays.items() if name.startswith(entry)}
    assert len(stored) == 2
    for tensor, expected in stored.items():
        error = np.linalg.norm(np.asarray(params[parameter(tensor)]).T - expected)
        assert error <= 1e-5 * np.linalg.norm(expected), tensor
    for tensor, expected in golden[entry]["l2"].items():
        found = np.linalg.norm(np.asarray(params[parameter(tensor)], np.float64))
        assert found == pytest.approx(expected, rel=1e-5), tensor
    check_perplexities(merged, golden[entry], arrays)


def test_the_stitched_model(golden, arrays, models):
    plan = StitchPlan.from_json(golden["stitched"]["plan"], names=NAMES)
    plan.check(20, 3, remove=5)
    stitched = stitch_models(plan, models[0], models[1:])
    assert [origin.index for origin in stitched.origins] == [
        row["layer"] for row in golden["stitched"]["plan"]
    ]
    check_perplexities(stitched, golden["stitched"], arrays)
