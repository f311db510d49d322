"""Real checkpoints against transformers: logits as they come, and after export."""

import jax
import numpy as np
import pytest

from jprune.checkpoints import export_huggingface, load, load_checkpoint
from jprune.checkpoints.safetensors_io import read_headers
from jprune.llama import forward
from jprune.transforms import chain, drop_blocks, drop_sublayers

pytestmark = pytest.mark.parity
logits = jax.jit(forward)


def transformers_logits(folder, ids):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.tensor(ids, dtype=torch.long)).logits.numpy()


@pytest.fixture(params=["llama-16m", "stories260k"])
def folder(request, shared):
    return shared / "models" / request.param


def windows(llama):
    rng = np.random.default_rng(0)
    return rng.integers(0, llama.config.vocab_size, (2, 129)).astype(np.int32)


def test_logits(folder):
    llama = load(folder, dtype="float32")
    ids = windows(llama)
    np.testing.assert_allclose(logits(llama, ids), transformers_logits(folder, ids), atol=2e-4)


TRANSFORMS = {
    "full": chain(),
    "blocks": drop_blocks([1, 3]),
    "sublayers": chain(drop_sublayers(attention=[2], mlp=[0]), drop_blocks([3])),
}


@pytest.mark.parametrize("change", TRANSFORMS)
def test_logits_after_export(folder, change, tmp_path):
    checkpoint = load_checkpoint(folder, dtype="float32")
    pruned = TRANSFORMS[change](checkpoint.llama)
    ids = windows(pruned)
    export_huggingface(tmp_path / "out", pruned, checkpoint.tokenizer)
    ours, theirs = logits(pruned, ids), transformers_logits(tmp_path / "out", ids)
    np.testing.assert_allclose(ours, theirs, atol=2e-4)
    again = load(tmp_path / "out", dtype="float32")
    np.testing.assert_allclose(logits(again, ids), ours, atol=1e-5)


def test_import_then_export_is_bit_identical(folder, tmp_path):
    from safetensors import safe_open

    checkpoint = load_checkpoint(folder, dtype="checkpoint")
    export_huggingface(tmp_path / "out", checkpoint.llama, checkpoint.tokenizer)
    before, after = read_headers(folder), read_headers(tmp_path / "out")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        with safe_open(tensor.file, "pt") as old, safe_open(after[name].file, "pt") as new:
            a, b = old.get_tensor(name), new.get_tensor(name)
        assert a.dtype == b.dtype and a.shape == b.shape
        assert (
            a.flatten()
            .view(dtype=pytest.importorskip("torch").uint8)
            .equal(b.flatten().view(dtype=pytest.importorskip("torch").uint8))
        ), name


def test_tokenizer_after_export(folder, tmp_path):
    transformers = pytest.importorskip("transformers")
    checkpoint = load_checkpoint(folder)
    export_huggingface(tmp_path / "out", checkpoint.llama, checkpoint.tokenizer)
    text = "Once upon a time, 3 < 4 and naïve.\n\n  Indented."
    old, new = (
        transformers.AutoTokenizer.from_pretrained(path)(text)["input_ids"]
        for path in (folder, tmp_path / "out")
    )
    assert old == new and len(old) > 5
