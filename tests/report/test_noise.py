import math

import numpy as np
import pytest

from jprune.report import noise
from jprune.report.reading import parse_scores
from tests.report.conftest import perplexity_scores


def test_neighbours_from_their_own_errors():
    gaps = noise.neighbour_gaps(parse_scores("s", perplexity_scores()))
    # Order 1, 3, 2, 4, 5: differences of DELTA, errors in quadrature.
    assert [g.difference for g in gaps] == pytest.approx([0.001, 0.179, 0.1, 0.6])
    expected = [0.01 * math.sqrt(2), math.hypot(0.01, 0.02), math.hypot(0.02, 0.03),
                math.hypot(0.03, 0.05)]  # fmt: skip
    assert [g.standard_error for g in gaps] == pytest.approx(expected)
    assert [g.in_noise for g in gaps] == [True, False, False, False]
    assert noise.tied_ranks(gaps) == [(1, 2)]


def test_neighbours_paired_over_windows():
    data = perplexity_scores()
    rng = np.random.default_rng(0)
    windows = rng.normal(4.0, 0.5, size=12)  # what all units share cancels in the pairs
    nll = np.stack([windows + d + rng.normal(0, 1e-4, size=12) for d in data["delta_nll"]])
    data["window_nll"] = nll.tolist()
    gaps = noise.neighbour_gaps(parse_scores("s", data))
    first = nll[3] - nll[1]
    assert gaps[0].paired
    assert gaps[0].difference == pytest.approx(first.mean())
    assert gaps[0].standard_error == pytest.approx(first.std(ddof=1) / math.sqrt(12))
    assert not gaps[0].in_noise  # although the two units' own errors overlap


def test_no_gaps_without_errors_or_for_a_greedy_path():
    data = perplexity_scores()
    assert noise.neighbour_gaps(parse_scores("s", data | {"standard_error": None})) == []
    assert noise.neighbour_gaps(parse_scores("s", data | {"criterion": "greedy"})) == []


def test_chains_of_ties_become_one_span():
    gaps = [noise.Gap(r, d, 0.5, True) for r, d in enumerate([0.1, 0.1, 1.0, 0.1, 0.6], start=1)]
    assert noise.tied_ranks(gaps) == [(1, 3), (4, 5)]
