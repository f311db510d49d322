"""Scores of llama-16m against what the published algorithms give on the same windows."""

import numpy as np
import pytest

from jprune.evaluate import perplexity
from jprune.scores import score, select
from jprune.transforms import drop_blocks


@pytest.mark.parametrize(
    ("criterion", "windows", "key", "options"),
    [
        ("magnitude", None, "magnitude", {}),
        ("magnitude", None, "magnitude_l2", {"power": 2.0}),
        ("taylor", "calib_128_10", "taylor_c128", {}),
        ("perplexity", "calib_128_10", "loo_ppl_c128", {}),
        ("perplexity", "calib_512_16", "loo_ppl_c512", {}),
        ("influence", "calib_512_16", "block_influence_c512", {}),
        ("angular", "calib_512_16", "angular_n5_c512_last_token", {"remove": 5}),
    ],
)
def test_scores(golden, golden_ids, llama_16m, criterion, windows, key, options):
    found = score(llama_16m, criterion, None if windows is None else golden_ids[windows], **options)
    values = found.window_scores if criterion == "angular" else found.scores
    np.testing.assert_allclose(values, golden[key], rtol=1e-3)
    assert list(np.argsort(values)) == list(np.argsort(golden[key]))


def test_taylor_accumulates_over_batches(golden, golden_ids, llama_16m):
    # The reference sums the gradients of two batch means, which is twice the gradient of the mean.
    found = score(llama_16m, "taylor", golden_ids["calib_128_10"], batch_size=5)
    np.testing.assert_allclose(2 * np.array(found.scores), golden["taylor_c128_bs5"], rtol=1e-3)


@pytest.mark.parametrize("length", [128, 512])
def test_perplexity_of_the_full_model(golden, golden_ids, llama_16m, length):
    found = perplexity(llama_16m, golden_ids[f"eval_{length}"]).ppl
    np.testing.assert_allclose(found, golden["ppl"][f"w{length}"], rtol=1e-4)


@pytest.mark.parametrize("entry", ["2", "4", "6", "taylor+4"])
def test_perplexity_after_dropping_blocks(golden, golden_ids, llama_16m, entry):
    case = golden["drop_blocks"][entry]
    found = perplexity(drop_blocks(case["blocks"])(llama_16m), golden_ids["eval_512"]).ppl
    np.testing.assert_allclose(found, case["ppl"], rtol=5e-4)


def test_the_published_selections(golden, golden_ids, llama_16m):
    loo = score(llama_16m, "perplexity", golden_ids["calib_512_16"])
    for number in (2, 4, 6):
        chosen = [unit.layer for unit in select(loo, number)]
        assert chosen == golden["drop_blocks"][str(number)]["blocks"]
    taylor = score(llama_16m, "taylor", golden_ids["calib_128_10"], protect="0-3,-2,-1")
    chosen = [unit.layer for unit in select(taylor, 4)]
    assert chosen == golden["drop_blocks"]["taylor+4"]["blocks"]
