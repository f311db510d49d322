"""Text against what transformers writes, greedily and prompt by prompt."""

import json

import pytest

from jprune.checkpoints import load_checkpoint
from jprune.core.errors import InputError
from jprune.evaluate import generate_texts, prompt_ids
from tests.tiny import family, tiny


class Letters:
    """A tokenizer of letters."""

    bos_token_id, eos_token_id = 1, 2

    def encode(self, text):
        return [ord(letter) - 94 for letter in text]

    def decode(self, ids):
        return "".join(chr(i % 26 + 97) for i in ids)


def test_bos_is_before_the_prompt_where_the_model_reads_it():
    assert prompt_ids(Letters(), "ab", tiny(1).config) == [1, 3, 4]
    assert prompt_ids(Letters(), "", tiny(1).config) == [1]
    assert prompt_ids(Letters(), "ab", family("qwen2", 1).config) == [3, 4]
    with pytest.raises(InputError, match="an empty prompt needs a model that begins texts with BO"):
        prompt_ids(Letters(), "", family("qwen2", 1).config)


def test_the_end_of_either_config_or_tokenizer_ends_a_text():
    llama = tiny()
    (free,) = generate_texts(llama, Letters(), ["ab"], 12, stop_at_eos=False)
    assert (free.new_tokens, free.ended, free.prompt_tokens) == (12, False, 3)


@pytest.mark.parity
def test_greedy_as_transformers(shared):
    import torch
    import transformers

    checkpoint = load_checkpoint(shared / "models" / "llama-16m-math", "float32")
    rows = (shared / "data" / "gsm8k.jsonl").read_text().splitlines()[:50]
    prompts = [f"Question: {json.loads(row)['question']}\nAnswer:" for row in rows]
    found = generate_texts(checkpoint.llama, checkpoint.tokenizer, prompts, 32, batch_size=8)

    base = transformers.AutoModelForCausalLM.from_pretrained(
        shared / "models" / "llama-16m", dtype=torch.float32
    )
    import peft

    model = peft.PeftModel.from_pretrained(base, shared / "models" / "llama-16m-math")
    for sample in found:
        ids = prompt_ids(checkpoint.tokenizer, sample.prompt, checkpoint.llama.config)
        with torch.no_grad():
            theirs = model.generate(
                input_ids=torch.tensor([ids]), max_new_tokens=32, do_sample=False
            )[0, len(ids) :].tolist()
        assert checkpoint.tokenizer.decode(theirs) == sample.text, sample.prompt
    assert len({sample.prompt_tokens for sample in found}) > 10
