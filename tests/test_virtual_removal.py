"""Scoring a removal and exporting it are the same thing: every block, every sublayer."""

import numpy as np
import pytest

from jprune.checkpoints import export_huggingface, load
from jprune.evaluate.candidates import candidate_nll
from jprune.llama import next_token_nll
from jprune.scores import present, units
from jprune.scores.perplexity import without
from jprune.transforms import drop_units
from tests.tiny import tiny, windows


def differences(llama, ids, materialise):
    """Per unit, the largest |NLL of a window, virtual - materialised|, in nats per token."""
    removals = [*units(llama), *units(llama, "sublayer")]
    gates = np.stack([without(np.array(present(llama)), [unit]) for unit in removals])
    found = candidate_nll(llama, gates, ids)
    for unit, nll in zip(removals, found, strict=True):
        # Eagerly: each of these models has a structure of its own to compile.
        expected = next_token_nll(materialise(drop_units([unit])(llama)), ids).mean(axis=1)
        yield unit, float(np.abs(np.asarray(expected) - nll).max())


def test_against_the_export(tmp_path):
    def exported(llama):
        export_huggingface(tmp_path / "out", llama)
        return load(tmp_path / "out", dtype="float32")

    llama = tiny(3)
    worst = dict(differences(llama, windows(2, 16), exported))
    assert len(worst) == 9 and max(worst.values()) <= 1e-5, worst


def test_on_a_trained_model(shared):
    llama = load(shared / "models" / "stories260k", dtype="float32")
    with np.load(shared / "goldens" / "llama-16m.npz") as file:
        ids = file["calib_128_10"][:2].astype(np.int32) % llama.config.vocab_size
    worst = dict(differences(llama, ids, lambda llama: llama))
    assert len(worst) == 15 and max(worst.values()) <= 1e-5, worst


@pytest.mark.parametrize("seed", range(3))
def test_several_units_at_once(seed):
    llama, ids = tiny(4, seed=seed), windows(2, 16)
    rng = np.random.default_rng(seed)
    every = units(llama, "sublayer")
    chosen = [every[at] for at in rng.choice(len(every), 4, replace=False)]
    gates = without(np.array(present(llama)), chosen)[None]
    expected = next_token_nll(drop_units(chosen)(llama), ids).mean(axis=1)
    np.testing.assert_allclose(candidate_nll(llama, gates, ids)[0], expected, atol=1e-5)
