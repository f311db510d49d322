"""What transformers makes of an export."""

import numpy as np
import pytest

from jprune.checkpoints.hf_export import export_huggingface
from jprune.checkpoints.hf_import import import_huggingface
from jprune.checkpoints.tokenizer import load_tokenizer
from tests.checkpoints.test_hf_export import keep, without


@pytest.mark.parity
class TestTransformers:
    def load(self, folder, **kwargs):
        torch = pytest.importorskip("torch")
        from transformers import AutoModelForCausalLM

        model, report = AutoModelForCausalLM.from_pretrained(
            folder, output_loading_info=True, dtype=torch.float32, **kwargs
        )
        assert not report["missing_keys"] and not report["unexpected_keys"]
        assert not report["mismatched_keys"]
        return model

    def logits(self, model, vocab):
        import torch

        ids = torch.arange(24).reshape(2, 12) * 7 % vocab
        with torch.no_grad():
            return model(ids).logits.numpy()

    @pytest.mark.parametrize("tied", [False, True])
    def test_loads_a_model_with_dropped_blocks(self, tmp_path, tiny, write, tied):
        folder = write(tmp_path / "a", *tiny(tie_word_embeddings=tied))
        export_huggingface(tmp_path / "b", keep(import_huggingface(folder), [0, 2]))
        reference = self.load(folder)
        del reference.model.layers[1]
        for index, layer in enumerate(reference.model.layers):
            layer.self_attn.layer_idx = index
        reference.config.num_hidden_layers = 2
        model = self.load(tmp_path / "b")
        assert len(model.model.layers) == model.config.num_hidden_layers == 2
        np.testing.assert_array_equal(self.logits(model, 40), self.logits(reference, 40))

    def test_loads_a_model_with_removed_sublayers(self, tmp_path, tiny, write):
        folder = write(tmp_path / "a", *tiny(attention_bias=True))
        export_huggingface(
            tmp_path / "b", without(import_huggingface(folder), attention=[1], mlp=[2])
        )
        reference = self.load(folder)
        for module in (reference.model.layers[1].self_attn.o_proj, reference.model.layers[2].mlp):
            module.register_forward_hook(lambda module, args, out: out * 0)
        model = self.load(tmp_path / "b")
        assert len(model.model.layers) == 3
        assert not model.model.layers[1].self_attn.o_proj.weight.any()
        np.testing.assert_array_equal(self.logits(model, 40), self.logits(reference, 40))

    def test_loads_a_published_model_pruned(self, tmp_path, shared):
        folder = shared / "models" / "stories260k"
        llama = import_huggingface(folder)
        export_huggingface(tmp_path / "b", keep(llama, [0, 1, 4]), load_tokenizer(folder))
        from transformers import AutoTokenizer

        assert self.load(tmp_path / "b").config.num_hidden_layers == 3
        ids = AutoTokenizer.from_pretrained(tmp_path / "b").encode("Once upon a time")
        assert ids == AutoTokenizer.from_pretrained(folder).encode("Once upon a time")
