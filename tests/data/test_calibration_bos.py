"""Calibration windows of models that are lost without BOS."""

import numpy as np
import pytest

from jprune.data import calibration_windows
from tests.data.letters import Letters, message_of


@pytest.mark.parametrize("sample", ["documents", "stream", "first"])
def test_calibration_windows_that_start_with_bos(write, sample):
    path = write("abcdefghijklmnop")
    drawn = calibration_windows(path, Letters(), 2, 4, sample=sample, seed=3, bos="every")
    text = calibration_windows(path, Letters(), 2, 3, sample=sample, seed=3)
    assert drawn.shape == (2, 4) and (drawn[:, 0] == Letters.bos_token_id).all()
    np.testing.assert_array_equal(drawn[:, 1:], text)
    # "first" is for a text that is read from its start: a window from within has no BOS.
    plain = calibration_windows(path, Letters(), 2, 3, sample=sample, seed=3, bos="first")
    np.testing.assert_array_equal(plain, text)


def test_calibration_bos_refused(write):
    path = write("abcdefgh")
    assert "unknown bos 'al'" in message_of(calibration_windows, path, Letters(), 1, 3, bos="al")
    assert "at least 2 tokens" in message_of(
        calibration_windows, path, Letters(), 1, 1, bos="every"
    )
    no_bos = Letters()
    no_bos.bos_token_id = None
    assert "no BOS token" in message_of(calibration_windows, path, no_bos, 1, 3, bos="every")
