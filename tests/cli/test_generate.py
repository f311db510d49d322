"""`jprune generate` against the tokens that the library gives."""

import json
import shutil

import pytest

from jprune.checkpoints import export_huggingface, load, load_tokenizer
from jprune.llama import Sampling, generate

FLAGS = ["--max_new_tokens=9", "--ignore_eos"]


def test_what_follows_each_prompt(jprune, model, tmp_path):
    out = tmp_path / "g.json"
    prompts = ["the cat, the dog", "", "old"]
    flags = [f"--prompt={prompt}" for prompt in prompts]
    code, printed, _ = jprune("generate", f"--model={model}", *flags, *FLAGS, f"--out={out}")
    assert code == 0
    llama, tokenizer = load(model), load_tokenizer(model)
    ids = [[tokenizer.bos_token_id, *tokenizer.encode(prompt)] for prompt in prompts]
    texts = [tokenizer.decode(new) for new in generate(llama, ids, 9, stop=())]
    assert printed == "\n\n".join(map(str.__add__, prompts, texts)) + "\n"
    written = json.loads(out.read_text())["samples"]
    assert [row["text"] for row in written] == texts
    assert [row["prompt_tokens"] for row in written] == list(map(len, ids))
    assert {row["new_tokens"] for row in written} == {9} and not any(r["ended"] for r in written)


def test_sampling_and_eos(jprune, model, tmp_path):
    llama, tokenizer = load(model), load_tokenizer(model)
    ids = [[tokenizer.bos_token_id, *tokenizer.encode("a cat")]]
    drawn = generate(llama, ids, 12, sampling=Sampling(1.5, 20, 0.9), stop=(), seed=3)[0]
    # The model ends its texts with what it wrote fifth.
    end = drawn[4]
    shutil.copytree(model, tmp_path / "m")
    config = json.loads((model / "config.json").read_text()) | {"eos_token_id": end}
    (tmp_path / "m" / "config.json").write_text(json.dumps(config))
    out = tmp_path / "g.json"
    flags = ["--temperature=1.5", "--top_k=20", "--top_p=0.9", "--seed=3", "--max_new_tokens=12"]
    code, _, _ = jprune(
        *("generate", f"--model={tmp_path / 'm'}", "--prompt=a cat", f"--out={out}", *flags)
    )
    assert code == 0
    (row,) = json.loads(out.read_text())["samples"]
    count = drawn.index(end) + 1
    assert row["ended"] and row["new_tokens"] == count
    assert row["text"] == tokenizer.decode(drawn[:count])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], '--prompt=... is missing: what the text begins with, also --prompt=""'),
        (["--prompt=a", "--temperature=-1"], "temperature is a number from 0 on"),
        (["--prompt=a", "--top_p=2"], "top_p is above 0 and at most 1"),
        (["--prompt=a", "--max_new_tokens=70"], "longer than the 64 that the model reads"),
        (["--prompt=a", "--max_new_tokens=0"], "max_new_tokens"),
    ],
)
def test_bad_calls(jprune, model, flags, message):
    code, _, error = jprune("generate", f"--model={model}", *flags)
    assert code == 2 and message in error


def test_no_tokenizer(jprune, model, tmp_path):
    export_huggingface(tmp_path / "m", load(model), None)
    code, _, error = jprune("generate", f"--model={tmp_path / 'm'}", "--prompt=a")
    assert code == 2 and "the model has no tokenizer, so prompts cannot be read" in error
