"""Densities per block, against their formulas."""

import json
import sys

import numpy as np
import pytest

from jprune.allocate import allocate, reach_total
from jprune.core import InputError
from jprune.scores.weight_stats import WeightStats

STATS = WeightStats(
    mean=np.array([0.4, 0.3, 0.5, 0.8]),
    median=np.array([0.2, 0.3, 0.1, 0.4]),
    outliers=np.array([1.0, 3.0, 2.0, 5.0]),
    sizes=np.array([100, 100, 100, 100]),
)
UNEVEN = WeightStats(STATS.mean, STATS.median, STATS.outliers, np.array([10, 400, 30, 100]))


def test_uniform():
    np.testing.assert_allclose(allocate("uniform", STATS, 0.7), [0.3] * 4)


def test_linear_depth():
    np.testing.assert_allclose(
        allocate("linear_depth", STATS, 0.5, alpha=0.3), [0.8, 0.6, 0.4, 0.2]
    )


def test_owl():
    # minmax: 0, 1/2, 1/4, 1; times 0.16; mean 0.07
    expected = np.array([0, 0.08, 0.04, 0.16]) - 0.07 + 0.3
    np.testing.assert_allclose(allocate("owl", STATS, 0.7), expected)


@pytest.mark.parametrize("reduce", ["mean", "median"])
def test_dlp(reduce):
    s = getattr(STATS, reduce)
    importance = 1 - s / s.sum()
    scaled = 0.3 * (importance - importance.min()) / np.ptp(importance)
    expected = scaled - scaled.mean() + 0.4
    np.testing.assert_allclose(allocate("dlp", STATS, 0.6, reduce=reduce), expected)
    assert expected.argmax() == s.argmin()


@pytest.mark.parametrize("name", ["uniform", "linear_depth", "owl", "dlp"])
@pytest.mark.parametrize("sparsity", [0.0, 0.05, 0.5, 0.97])
def test_blocks_together_have_what_was_asked_for(name, sparsity):
    density = allocate(name, UNEVEN, sparsity)
    assert ((density >= 0) & (density <= 1)).all()
    kept = (density * UNEVEN.sizes).sum() / UNEVEN.sizes.sum()
    assert kept == pytest.approx(1 - sparsity, abs=1e-12)


def test_equal_statistics_are_uniform():
    flat = WeightStats(np.ones(3), np.ones(3), np.ones(3), np.ones(3))
    np.testing.assert_allclose(allocate("dlp", flat, 0.5), [0.5] * 3)


def test_the_shift_is_one_for_all_blocks_that_are_not_at_an_end():
    found = reach_total(np.array([1.2, 0.5, 0.3, -0.2]), np.array([1, 2, 3, 4]), 0.6)
    assert found[0] == 1 and found[1] - found[2] == pytest.approx(0.2)


def test_from_a_file(tmp_path):
    file = tmp_path / "d.json"
    file.write_text(json.dumps([0.1, 0.2, 0.3, 0.4]))
    np.testing.assert_allclose(allocate(str(file), STATS, 0.75), [0.1, 0.2, 0.3, 0.4])
    file.write_text('{"a": 1}')
    with pytest.raises(InputError, match="should hold a list with a density for each block"):
        allocate(str(file), STATS, 0.5)


def test_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "my_rates.py").write_text("def first(stats, sparsity, to): return [to, 0, 0, 0]")
    monkeypatch.syspath_prepend(tmp_path)
    np.testing.assert_allclose(allocate("my_rates:first", STATS, 0.75, to=1.0), [1, 0, 0, 0])
    sys.modules.pop("my_rates")


@pytest.mark.parametrize(
    ("name", "sparsity", "options", "message"),
    [
        ("dpl", 0.5, {}, "unknown allocation 'dpl'; did you mean 'dlp'"),
        ("dlp", 0.5, {"alfa": 1}, "unknown option of dlp 'alfa'; did you mean 'alpha'"),
        ("dlp", 0.5, {"reduce": "max"}, "unknown reduction 'max'"),
        ("owl", 1.0, {}, r"sparsity 1.0 is outside \[0, 1\); 0.7 prunes 70%"),
        ("owl", -0.1, {}, r"sparsity -0.1 is outside"),
        ("no.such.module:f", 0.5, {}, "cannot import the allocation"),
    ],
)
def test_bad_requests(name, sparsity, options, message):
    with pytest.raises(InputError, match=message):
        allocate(name, STATS, sparsity, **options)
