"""A tiny model with a tokenizer and some text, as a user of the command line has them."""

import json
import random
import sys

import pytest

from jprune.checkpoints import export_huggingface, load_tokenizer
from jprune.cli.main import main
from tests.tiny import tiny

WORDS = ("the", "a", "cat", "dog", "house", "tree", "runs", "sleeps", "under", "over", "old")


def _text(seed: int, sentences: int) -> str:
    rng = random.Random(seed)
    return " ".join(" ".join(rng.choices(WORDS, k=8)) + "." for _ in range(sentences))


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    """Folder of a random Llama of four blocks with a byte-level tokenizer."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    folder = tmp_path_factory.mktemp("models")
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_text(0, 100)], trainer)
    (folder / "tokenizer").mkdir()
    tokenizer.save(str(folder / "tokenizer" / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<s>",
        "eos_token": "</s>",
    }
    (folder / "tokenizer" / "tokenizer_config.json").write_text(json.dumps(settings))
    llama = tiny(4, vocab_size=300)
    export_huggingface(folder / "tiny", llama, load_tokenizer(folder / "tokenizer"))
    return folder / "tiny"


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """A text file of about 2000 tokens."""
    file = tmp_path_factory.mktemp("data") / "text.txt"
    file.write_text(_text(1, 60))
    return file


@pytest.fixture
def jprune(capsys):
    """Runs the command line; gives its exit status, stdout and stderr."""

    def call(*argv) -> tuple[int, str, str]:
        capsys.readouterr()
        status = main([str(arg) for arg in argv])
        out, err = capsys.readouterr()
        print(err, file=sys.stderr)  # once more, for the report of a test that fails
        return status, out, err

    return call


@pytest.fixture
def refused(jprune):
    """Runs a call that must end with status 2 and one clear line; gives that line."""

    def call(*argv) -> str:
        status, out, err = jprune(*argv)
        assert status == 2, (status, out, err)
        assert out == "" and "Traceback" not in err, (out, err)
        *_, line = err.splitlines()
        assert line.startswith("jprune: error: "), err
        return line.removeprefix("jprune: error: ")

    return call
