"""A search in words: what it found, and whether that beats what it is set beside."""

import math

import pytest

from jprune.report.objectives import measured_models, report_data
from jprune.report.reading import read_run
from jprune.report.search_words import search_notes, verdict
from tests.report import search_runs
from tests.report.search_runs import DATA, NLL


@pytest.fixture
def models(make):
    run = read_run(make(search_runs.search_files()))
    return measured_models(run, report_data(run))


def words(make, error=0.01, **nll):
    run = search_runs.run_json(NLL | {k.replace("_", "-"): v for k, v in nll.items()}, error)
    return " ".join(search_notes(read_run(make(search_runs.search_files(run)))))


def test_what_was_found_is_said(make):
    text = words(make)
    for sentence in (
        "8 candidates were tried: 4 evaluated on all windows, 3 ended early, 1 failed.",
        "The best drops 2 of 6 layers (layers 1, 4). Of the 4 that stay, 1 is the base's own, 2 "
        "are taken from one variant (1 of math, 1 of code), and 1 merged of several.",
        "its score is 0.9750",
        # After six trials, as many as the others had.
        "After 6 trials it was 1.0625, below the 1.1250 of the best search that only removes (of "
        "math).",
    ):
        assert sentence in text, sentence


@pytest.mark.parametrize(
    ("mixes", "sentence"),
    [
        ([], "It is base with layers dropped."),
        ([{"variants": [1]}] * 4, "It is code with layers dropped."),
        (
            [{"variants": [0, 1], "factor": 0.5}] * 4,
            "All are the same mix: it is a plain merge of math and code with layers dropped.",
        ),
        ([{"variants": [1]}] * 3, None),
        ([{"variants": [0, 1], "factor": 0.5}] * 3 + [{"variants": [1]}], None),
    ],
)
def test_a_result_that_is_no_stitching_is_said_to_be_none(make, mixes, sentence):
    kept = (0, 2, 3, 5)
    candidate = {"removed": search_runs.STITCHED["removed"]} | {
        "mixes": [{"layer": kept[i], **mix} for i, mix in enumerate(mixes)]
    }
    search = search_runs.search(candidate=candidate)
    files = search_runs.search_files(search_runs.run_json(search=search))
    text = search_notes(read_run(make(files)))[0]
    assert text.endswith(sentence) if sentence else "with layers dropped" not in text


def test_a_result_that_beats_all_is_said_to(make):
    text = words(make)
    assert (
        "On the mean of gsm8k and mbpp the stitched model has an NLL of 4.375 (PPL 79.44)" in text
    )
    assert (
        "At this size it beats all that it is set beside: the best depth pruning (of code) (NLL "
        "4.750: 0.375 higher), the best removal search (of base) (NLL 4.750: 0.375 higher) and "
        "depth pruning of the best merge (ties, density 0.2, factor 1) (NLL 4.875: 0.500 higher)."
    ) in text
    # What another is better on is said all the same.
    assert "On mbpp the best depth pruning (of code) is better (4.500 against 5.250)." in text
    share = 100 * math.exp(4.25 - 4.375)
    assert f"Of the PPL of math, the best unpruned variant, {share:.1f}% is retained" in text
    assert "it is better than the unpruned base (NLL 4.500)." in text


def test_a_result_that_beats_nothing_is_said_to(make):
    text = words(make, after=(6.0, 7.0))
    assert "At this size it beats nothing that it is set beside: the best depth pr" in text
    assert "(NLL 4.750: 1.750 lower)" in text
    assert "On gsm8k depth pruning of the best merge" in text
    assert "it is not better than the unpruned base" in text


def test_some_are_beaten_and_some_are_not(make):
    text = words(make, after=(4.0, 5.6))
    assert "At this size it beats depth pruning of the best merge (ties" in text
    assert (
        "; it does not beat the best depth pruning (of code) (NLL 4.750: 0.050 lower) and" in text
    )


def test_differences_inside_the_noise_decide_nothing(make):
    # The standard error of a mean of two is 0.4 / sqrt(2), of a difference of means 0.4.
    text = words(make, error=0.4)
    assert (
        "At this size it beats depth pruning of the best merge (ties, density 0.2, factor 1) (NLL "
        "4.875: 0.500 higher); it cannot be told by these windows whether it is better than the "
        "best depth pruning (of code) (NLL 4.750: 0.375 higher, inside the noise of ± 0.400)"
    ) in text


def test_equal_models_are_neither_better_nor_worse(models):
    models = [m for m in models if m.key in ("after", "depth")]
    twin = models[1]
    same = [twin, type(twin)(**{**vars(twin), "key": "other", "name": "other", "detail": ""})]
    assert "whether it is better than other (NLL 4.375, the same)" in verdict(same, DATA)


def test_nothing_to_compare_with_is_said(models):
    models = [m for m in models if m.key in ("after", "before")]
    assert "It was set beside no other model of its size (see the key compare)." in verdict(
        models, DATA
    )
