"""What Taylor scores keep for the backward pass, and that it does not change them."""

import importlib

import jax
import numpy as np
import pytest

from jprune.llama.blockwise import ends, start
from jprune.llama.model import anonymous
from jprune.scores import score
from tests.tiny import tiny, windows


def test_taylor_with_everything_kept_for_the_backward_pass(monkeypatch):
    """What there is room for is not computed again, to the same scores."""
    module = importlib.import_module("jprune.scores.taylor")
    llama, ids = tiny(3), windows(4, 12)
    again = score(llama, "taylor", ids, granularity="sublayer", batch_size=2).scores
    monkeypatch.setattr(module, "free_bytes", lambda device: 2**40)
    kept = score(llama, "taylor", ids, granularity="sublayer", batch_size=2).scores
    np.testing.assert_allclose(again, kept, rtol=1e-5)


@pytest.mark.parametrize("keep", [True, False])
def test_taylor_keeps_outputs_of_linears_and_no_weights(keep):
    module = importlib.import_module("jprune.scores.taylor")
    llama = anonymous(tiny(1))
    h, ctx = start(ends(llama), windows(2, 12))
    _, kept = module._advance(llama.blocks[0], h, ctx, keep)
    linears = [w.shape[1] for w in jax.tree.leaves(llama.blocks[0]) if w.ndim == 2]
    del linears[-1]  # no gradient needs what the last of them puts out
    assert sorted(x.shape[-1] for x in kept) == (sorted(linears) if keep else [])
    assert all(x.shape[:2] == (2, 12) for x in kept)
