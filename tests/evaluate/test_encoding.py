"""How texts become requests, token by token."""

import pytest

from jprune.checkpoints import load_tokenizer
from jprune.core.errors import InputError
from jprune.evaluate import Request, TextEncoder
from tests.evaluate.words import Words


def pieces(tokenizer, request):
    names = {number: piece for piece, number in tokenizer.ids.items()} | {2: "</s>"}
    return tuple([names[i] for i in ids] for ids in (request.context, request.continuation))


def encoded(context, continuation, **changes):
    tokenizer = Words(**changes)
    (request,) = TextEncoder(tokenizer).pairs([(context, continuation)])
    return pieces(tokenizer, request)


def test_context_and_continuation():
    assert encoded("a b:", " c d") == (["<s>", "a", " b:"], [" c", " d"])
    # Spaces at the end go over; here they are tokens of their own but the last.
    assert encoded("a  ", "c d") == (["<s>", "a"], [" ", " c", " d"])
    assert encoded("a\n", "c") == (["<s>", "a"], ["\n", "c"])
    # Together "ab" is one token: as many tokens as the context has by itself are its own.
    assert encoded("a", "b c") == (["<s>", "a"], [" c"])
    assert encoded("a", "b") == (["<s>", "a"], [])
    assert encoded("a", "?") == (["<s>", "a"], ["?"])


def test_empty_contexts():
    assert encoded("", "a b") == (["<s>"], ["a", " b"])
    assert encoded("", "<s>a") == (["<s>"], ["a"])
    assert encoded("", "") == (["<s>"], [])
    assert encoded("", "a", bos_token_id=None) == (["</s>"], ["a"])
    assert encoded("  ", "a") == (["<s>"], [" ", " a"])
    # Nothing is left of the context, and no BOS stands before it by itself.
    assert encoded(" ", "a", bos_token_id=None) == (["</s>"], [" a"])


def test_bos_is_not_added_twice():
    assert encoded("<s>a", " b") == (["<s>", "a"], [" b"])
    tokenizer = Words()
    for add, expected in ((None, [1, 10]), (True, [1, 10]), (False, [10])):
        assert TextEncoder(tokenizer, add_bos=add).encode(["a"]) == [expected]
    assert TextEncoder(tokenizer).encode(["a", "<s>a"], specials=True) == [[1, 10], [1, 1, 10]]
    assert TextEncoder(tokenizer).encode(["a", "<s>a"], specials=False) == [[10], [1, 10]]


def test_pairs_keep_their_order():
    tokenizer = Words()
    pairs = [("a", " b"), ("", "c"), ("a", " d e"), ("f ", "g"), ("a", " b")]
    found = TextEncoder(tokenizer).pairs(pairs)
    assert [pieces(tokenizer, one)[1] for one in found] == [
        *([" b"], ["c"], [" d", " e"], [" g"], [" b"])
    ]
    assert found[0] == found[4] and isinstance(found[0], Request)


def test_another_prefix():
    tokenizer = Words()
    assert tokenizer.encode("z", add_special_tokens=False) == [10]
    (found,) = TextEncoder(tokenizer, prefix_id=10).pairs([("", "a")])
    assert found == Request((10,), (11,))


@pytest.mark.parametrize(
    ("tokenizer", "message"),
    [
        (None, "the model has no tokenizer, so texts cannot be read; add tokenizer.json"),
        (Words(bos_token_id=None, eos_token_id=None), "the tokenizer has neither BOS nor EOS"),
    ],
)
def test_messages(tokenizer, message):
    with pytest.raises(InputError) as caught:
        TextEncoder(tokenizer)
    assert str(caught.value).startswith(message)


@pytest.mark.parity
@pytest.mark.parametrize("name", ["llama-16m", "stories260k"])
def test_as_lm_eval_encodes(shared, name):
    pytest.importorskip("torch")
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    theirs = huggingface.HFLM(str(shared / "models" / name), device="cpu")
    ours = TextEncoder(load_tokenizer(shared / "models" / name))
    assert ours.prefix_id == theirs.prefix_token_id
    contexts = ["The sun is", "The sun is  ", " ", "<s> The", "Naïve ☃ 你好:\n", "x" * 50]
    for context in contexts:
        for continuation in (" hot.", "hot", " ", "\n\nNo", "ly", " <s>", "</s>", " ☃ 你"):
            (found,) = ours.pairs([(context, continuation)])
            expected = theirs._encode_pair(context, continuation)
            assert (list(found.context), list(found.continuation)) == expected
    for text in ("", "a", "<s>a", " a"):
        assert ours.encode([text]) == [theirs.tok_encode(text)]
