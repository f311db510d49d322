"""Sparsity of llama-16m against what the published algorithms give on the same windows."""

import numpy as np
import pytest

from jprune.allocate import allocate
from jprune.evaluate import perplexity
from jprune.llama.masks import sparsity
from jprune.scores.sparsify import sparsify
from jprune.scores.weight_stats import weight_stats

ALLOCATIONS = {
    "uniform": ("uniform", {}),
    "owl_M5_l0.08": ("owl", {}),
    "dlp_mean_a0.15": ("dlp", {}),
    "dlp_median_a0.15": ("dlp", {"reduce": "median"}),
}


@pytest.fixture(scope="module")
def stats(llama_16m, golden_ids):
    return weight_stats(llama_16m, golden_ids["calib_512"])


def test_layer_statistics(golden, stats):
    for key, found in (("mean", stats.mean), ("median", stats.median), ("owl5", stats.outliers)):
        expected = [row[key] for row in golden["layer_stats"]]
        np.testing.assert_allclose(found, expected, rtol=1e-3)


@pytest.mark.parametrize("target", [0.5, 0.7])
@pytest.mark.parametrize("name", [name for name in ALLOCATIONS if name != "uniform"])
def test_densities(golden, stats, target, name):
    allocator, options = ALLOCATIONS[name]
    found = allocate(allocator, stats, target, **options)
    np.testing.assert_allclose(found, golden[f"density_{target}"][name], atol=1e-4)


# One of each kind: each takes half a minute.
@pytest.mark.parametrize(
    "entry", ["magnitude/owl_M5_l0.08/0.7", "wanda/dlp_mean_a0.15/0.7", "sparsegpt/2:4"]
)
def test_pruned_models(golden, llama_16m, golden_ids, stats, entry):
    expected = golden["masks"][entry]
    criterion, rate, *target = entry.split("/")
    if target:
        allocator, options = ALLOCATIONS[rate]
        density, pattern = allocate(allocator, stats, float(target[0]), **options), "unstructured"
    else:
        density, pattern = 0.5, rate
    result = sparsify(
        llama_16m, criterion, golden_ids["calib_512"], density=density, pattern=pattern
    )
    assert sparsity(result.masks) == pytest.approx(expected["sparsity"], abs=1e-4)
    bound = 0.01 if criterion == "sparsegpt" else 0.005
    assert perplexity(result.llama, golden_ids["eval_512"]).ppl == pytest.approx(
        expected["ppl"], rel=bound
    )
