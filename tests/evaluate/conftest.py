"""What tests of evaluation share."""

import pytest

from jprune.evaluate import stitched


@pytest.fixture
def blocks_run(monkeypatch):
    """As many entries as blocks ran on a batch."""
    calls = []

    def counted(block, h, ctx):
        calls.append(1)
        return advance(block, h, ctx)

    advance = stitched.advance
    monkeypatch.setattr(stitched, "advance", counted)
    return calls
