import json
import subprocess
import sys

import pytest

from jprune.checkpoints.tokenizer import Tokenizer, load_tokenizer, write_companions
from jprune.core.errors import InputError

TEXTS = [
    "Once upon a time, there was a little dog.",
    "",
    " leading and  double  spaces \n\n\tdef f(x):\n    return x ** 2\n",
    "caf\u00e9 \u65e5\u672c\u8a9e \U0001f600 don't <s> hi</s> 3.14159",
]
MODELS = ["llama-16m", "stories260k"]


@pytest.fixture
def tokenizer_folder(tmp_path):
    """A word-level tokenizer made by hand: the ids are known without running anything."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2, "a": 3, "b": 4, "c": 5}
    special = [
        {"id": i, "content": token, "special": True, "single_word": False}
        | {"lstrip": False, "rstrip": False, "normalized": False}
        for token, i in vocab.items()
        if i < 3
    ]
    content = {
        "version": "1.0",
        "truncation": {
            "max_length": 2,
            "strategy": "LongestFirst",
            "stride": 0,
            "direction": "Right",
        },
        "padding": None,
        "added_tokens": special,
        "normalizer": None,
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "<unk>"},
    }
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": {"__type": "AddedToken", "content": "<s>", "special": True},
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    return tmp_path


def settings(folder, **changes):
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_ids_of_a_tokenizer_made_by_hand(tokenizer_folder):
    tokenizer = load_tokenizer(tokenizer_folder)
    assert tokenizer.encode("a b x c") == [3, 4, 0, 5]  # never truncated
    assert tokenizer.encode_batch(["c", "a </s>", ""]) == [[5], [3, 2], []]
    assert tokenizer.encode_batch([]) == []
    assert tokenizer.decode([3, 2, 4]) == "a b"
    assert tokenizer.decode([3, 2], skip_special_tokens=False) == "a </s>"
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.vocab_size) == (1, 2, 6)


def test_special_tokens_may_be_absent(tokenizer_folder):
    (tokenizer_folder / "tokenizer_config.json").write_text("{}")
    assert load_tokenizer(tokenizer_folder).bos_token_id is None
    (tokenizer_folder / "special_tokens_map.json").write_text('{"eos_token": "</s>"}')
    assert load_tokenizer(tokenizer_folder).eos_token_id == 2


def processor(*ends):
    """A post-processor that puts special tokens around a text, `A`."""
    ids = {"<s>": 1, "</s>": 2}
    sequence = {"Sequence": {"id": "A", "type_id": 0}}
    single = [{"SpecialToken": {"id": e, "type_id": 0}} if e in ids else sequence for e in ends]
    tokens = {e: {"id": e, "ids": [i], "tokens": [e]} for e, i in ids.items()}
    return {"type": "TemplateProcessing", "single": single, "pair": [], "special_tokens": tokens}


@pytest.mark.parametrize("ends", [None, ("<s>", "A"), ("<s>", "A", "</s>"), ("A",)])
@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"add_bos_token": True},
        {"add_bos_token": False},
        {"add_bos_token": True, "add_eos_token": True},
        {"add_eos_token": True},
        {"add_bos_token": None},
    ],
)
def test_the_special_tokens_that_transformers_adds(tokenizer_folder, ends, asked):
    from transformers import AutoTokenizer

    file = tokenizer_folder / "tokenizer.json"
    content = json.loads(file.read_text())
    content["truncation"] = None
    content["post_processor"] = ends and processor(*ends)
    file.write_text(json.dumps(content))
    settings(tokenizer_folder, **asked)
    tokenizer = load_tokenizer(tokenizer_folder)
    reference = AutoTokenizer.from_pretrained(tokenizer_folder)
    for text in ("a b", ""):
        expected = reference.encode(text, add_special_tokens=True)
        assert tokenizer.encode(text, add_special_tokens=True) == expected
        assert tokenizer.encode_batch([text], add_special_tokens=True) == [expected]
    # Where file and settings differ it is for transformers to say, which may change its mind.
    written = tuple(end in (ends or ()) for end in ("<s>", "</s>"))
    settled = tuple(bool(asked.get(f"add_{name}_token")) for name in ("bos", "eos"))
    assert ("hf" in vars(tokenizer)) == (bool(asked) and written != settled)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("special", [False, True])
def test_the_same_ids_as_transformers(shared, model, special):
    from transformers import AutoTokenizer

    folder = shared / "models" / model
    tokenizer, reference = load_tokenizer(folder), AutoTokenizer.from_pretrained(folder)
    expected = [reference.encode(text, add_special_tokens=special) for text in TEXTS]
    assert [tokenizer.encode(text, special) for text in TEXTS] == expected
    assert tokenizer.encode_batch(TEXTS, special) == expected
    assert tokenizer.bos_token_id == reference.bos_token_id
    assert tokenizer.eos_token_id == reference.eos_token_id
    assert tokenizer.vocab_size == len(reference)
    for ids in expected:
        for skip in (True, False):
            assert tokenizer.decode(ids, skip) == reference.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize(
    "changes",
    [
        {"pad_token": "<pad>"},
        {"additional_special_tokens": ["<|im_start|>"]},
        {"added_tokens_decoder": {"6": {"content": "<pad>", "special": True}}},
    ],
    ids=str,
)
def test_tokens_that_only_the_settings_name(tokenizer_folder, changes):
    from transformers import AutoTokenizer

    settings(tokenizer_folder, **changes)
    tokenizer = load_tokenizer(tokenizer_folder)
    reference = AutoTokenizer.from_pretrained(tokenizer_folder)
    text = "a <pad> <|im_start|> b"
    assert tokenizer.encode(text) == reference.encode(text, add_special_tokens=False)
    assert 6 in tokenizer.encode(text)
    assert tokenizer.vocab_size == len(reference) == 7


def test_classes_that_rebuild_the_tokenizer_go_through_transformers(shared, tmp_path):
    from transformers import AutoTokenizer

    source = shared / "models" / "stories260k"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((source / name).read_bytes())
    settings(tmp_path, tokenizer_class="LlamaTokenizer", add_prefix_space=False, legacy=False)
    tokenizer, reference = load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS:
        expected = reference.encode(text, add_special_tokens=False)
        assert tokenizer.encode(text) == expected
    assert tokenizer.encode_batch(TEXTS)[0] == tokenizer.encode(TEXTS[0])
    assert tokenizer.bos_token_id == 1
    assert tokenizer.decode(tokenizer.encode("little dog")) == "little dog"


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe", b'{"model": {}}'])
def test_a_broken_tokenizer(tmp_path, content):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(InputError, match="tokenizer.json is not a valid tokenizer"):
        load_tokenizer(tmp_path).encode("a")
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer"}')
    with pytest.raises(InputError, match="cannot load the tokenizer in"):
        load_tokenizer(tmp_path).encode("a")


def test_a_folder_without_one(tmp_path):
    assert load_tokenizer(tmp_path) is None
    write_companions(None, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_files_are_copied_and_work(tokenizer_folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (tokenizer_folder / "chat_template.jinja").write_text("{{ messages }}")
    tokenizer = load_tokenizer(tokenizer_folder)
    write_companions(tokenizer, out)
    names = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    assert {file.name for file in tokenizer.files} == names == {f.name for f in out.iterdir()}
    assert load_tokenizer(out).encode("b a") == [4, 3]


def test_a_tokenizer_of_transformers_is_written(tokenizer_folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    write_companions(load_tokenizer(tokenizer_folder).hf, out)
    assert load_tokenizer(out).encode("b a") == [4, 3]


def test_a_handle_is_cheap_and_importing_it_loads_no_frameworks():
    code = (
        "import sys; from jprune.checkpoints import load_tokenizer\n"
        "heavy = {'torch', 'transformers', 'tokenizers', 'orbax', 'huggingface_hub', 'tensorflow'}"
        "\nassert not heavy & sys.modules.keys(), heavy & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_ids_may_be_numpy_integers(tokenizer_folder):
    import numpy as np

    assert Tokenizer(load_tokenizer(tokenizer_folder).folder).decode(np.array([3, 4])) == "a b"
