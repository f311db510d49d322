"""The run that tests of the training loop share."""

import pytest

from tests.retrain.short_run import short_run


@pytest.fixture(scope="module")
def whole():
    """The run that nothing interrupted."""
    return short_run()
