import numpy as np
import pytest

from jprune.checkpoints import load_tokenizer
from jprune.data import calibration_windows, check_vocabulary, evaluation_windows
from jprune.data.sampling import shuffled
from jprune.data.sources import documents as documents_of
from tests.data.letters import Letters, message_of

# ---- evaluation


def test_bos_first_once_and_the_partial_window_dropped(write):
    # BOS a b | c \n \n | d e f | g
    windows = evaluation_windows(write("abc", "defg"), Letters(), 3)
    assert windows.dtype == np.int32
    np.testing.assert_array_equal(windows, [[1, 10, 11], [12, 3, 3], [13, 14, 15]])


def test_bos_every_and_none(write):
    path = write("abc", "defg")
    np.testing.assert_array_equal(
        evaluation_windows(path, Letters(), 3, bos="every"),
        [[1, 10, 11], [1, 12, 3], [1, 3, 13], [1, 14, 15]],
    )
    np.testing.assert_array_equal(
        evaluation_windows(path, Letters(), 3, bos="none"),
        [[10, 11, 12], [3, 3, 13], [14, 15, 16]],
    )


def test_join_and_empty_documents(write):
    path = write("", "ab", "", "c")
    np.testing.assert_array_equal(
        evaluation_windows(path, Letters(), 6, join="\n", bos="none"), [[3, 10, 11, 3, 3, 12]]
    )
    np.testing.assert_array_equal(
        evaluation_windows(path, Letters(), 3, join="", bos="none"), [[10, 11, 12]]
    )


def test_number_of_windows(write):
    path = write("abc", "defg")
    whole = evaluation_windows(path, Letters(), 3)
    np.testing.assert_array_equal(evaluation_windows(path, Letters(), 3, 2), whole[:2])
    np.testing.assert_array_equal(evaluation_windows(path, Letters(), 3, max_windows=9), whole)
    np.testing.assert_array_equal(evaluation_windows(path, Letters(), 3, max_windows=1), whole[:1])
    assert len(evaluation_windows(path, Letters(), 10)) == 1  # BOS and 9 letters: exactly one


def test_a_few_windows_of_a_large_source_read_little_and_equal_the_whole(write):
    rng = np.random.default_rng(0)
    texts = ["".join(rng.choice(list("abcdefgh"), rng.integers(0, 400))) for _ in range(2000)]
    path = write(*texts)
    for bos in ("first", "every", "none"):
        whole = evaluation_windows(path, Letters(), 16, bos=bos)
        tokenizer = Letters()
        few = evaluation_windows(path, tokenizer, 16, 20, bos=bos)
        np.testing.assert_array_equal(few, whole[:20])
        assert sum(map(len, tokenizer.texts)) < 20_000 < sum(map(len, texts)) / 10


def test_sparse_tokenizers_are_given_more_text_until_it_is_enough(write):
    class Rare(Letters):  # only every tenth character gives a token
        def encode(self, text, add_special_tokens=True):
            return super().encode(text[::10], add_special_tokens)

    text = "abcdefghijklmnopqrst" * 4000
    whole = evaluation_windows(write(text), Rare(), 16, bos="none")
    few = evaluation_windows(write(text), Rare(), 16, 100, bos="none")
    np.testing.assert_array_equal(few, whole[:100])
    assert len(whole) == 500


def test_evaluation_errors(write):
    path = write("abc", "defg")
    assert "a.jsonl holds 3 of 3 tokens, 4 wanted" in message_of(
        evaluation_windows, path, Letters(), 3, 4
    )
    assert "holds 0 of 99 tokens, 1 wanted" in message_of(evaluation_windows, path, Letters(), 99)
    assert "unknown bos 'fist'; did you mean 'first'?" in message_of(
        evaluation_windows, path, Letters(), 3, bos="fist"
    )
    assert "must be at least 1, not 0" in message_of(evaluation_windows, path, Letters(), 3, 0)
    assert "at least 1, not 1 x 0" in message_of(evaluation_windows, path, Letters(), 0)
    assert "at least 2 tokens" in message_of(evaluation_windows, path, Letters(), 1, bos="every")
    assert "the model has no tokenizer" in message_of(evaluation_windows, path, None, 3)
    no_bos = Letters()
    no_bos.bos_token_id = None
    assert "no BOS token; use bos='none'" in message_of(evaluation_windows, path, no_bos, 3)
    assert len(evaluation_windows(path, no_bos, 3, bos="none")) == 3


def test_token_windows_are_used_as_they_are(tmp_path):
    ids = np.arange(20, dtype=np.uint16).reshape(4, 5)
    np.savez(tmp_path / "w.npz", ids=ids)
    source = f"{tmp_path}/w.npz:ids"
    np.testing.assert_array_equal(evaluation_windows(source, None, 128), ids)
    np.testing.assert_array_equal(evaluation_windows(source, None, 128, 2), ids[:2])
    np.testing.assert_array_equal(evaluation_windows(source, None, 128, max_windows=99), ids)
    np.testing.assert_array_equal(calibration_windows(source, None, 2, 3), ids)
    assert "holds 4 of 5 tokens, 9 wanted" in message_of(evaluation_windows, source, None, 128, 9)


# ---- calibration


DISTINCT = "abcdefghijklmnopqrstuvwxyz"  # a span's first letter gives its place


def test_documents_are_spans_of_documents_that_are_long_enough(write):
    texts = [DISTINCT[n : n + 8] for n in range(12)] + ["abc"] * 40
    path = write(*texts)
    windows = calibration_windows(path, Letters(), 12, 6, seed=3)
    assert windows.shape == (12, 6)
    assert (np.diff(windows, axis=1) == 1).all()  # consecutive letters: no span crosses documents
    again = calibration_windows(path, Letters(), 12, 6, seed=3)
    np.testing.assert_array_equal(windows, again)
    assert not np.array_equal(windows, calibration_windows(path, Letters(), 12, 6, seed=4))


def test_every_long_document_serves_once_before_any_serves_twice(write):
    texts = [letter * 12 for letter in DISTINCT]  # a window shows which document it is of
    path = write(*texts, *["a"] * 30)
    first = calibration_windows(path, Letters(), 26, 4)[:, 0]
    assert sorted(first) == list(range(10, 36))
    assert list(first) != sorted(first)
    more = calibration_windows(path, Letters(), 60, 4)[:, 0]  # 12 // 4 = 3 from each at most
    counts = np.bincount(more)[10:]
    assert counts.sum() == 60 and counts.min() == 2 and counts.max() == 3
    np.testing.assert_array_equal(more[:26], first)


def test_a_document_serves_no_more_often_than_it_has_disjoint_windows(write):
    windows = calibration_windows(write("a" * 12, "b" * 7), Letters(), 4, 4)
    assert sorted(windows[:, 0]) == [10, 10, 10, 11]


def test_starts_of_spans_are_uniform(write):
    path = write(*[DISTINCT[:12]] * 3000)
    starts = calibration_windows(path, Letters(), 3000, 10)[:, 0] - 10
    counts = np.bincount(starts, minlength=3)
    assert len(counts) == 3 and abs(counts - 1000).max() < 130  # five standard deviations


def test_spans_depend_on_the_seed_even_where_the_documents_do_not(write):
    path = write(*[DISTINCT] * 20)
    starts = [calibration_windows(path, Letters(), 20, 4, seed=seed)[:, 0] for seed in (0, 1)]
    assert (starts[0] != starts[1]).any()


def test_only_drawn_documents_are_tokenised(write):
    tokenizer = Letters()
    calibration_windows(write(*["abcdef"] * 500, *["ab"] * 500), tokenizer, 5, 6)
    assert tokenizer.texts == ["abcdef"] * 5


def test_stream_and_first(write):
    path = write(DISTINCT[:13], DISTINCT[13:])
    stream = [*range(10, 23), 3, 3, *range(23, 36)]
    np.testing.assert_array_equal(
        calibration_windows(path, Letters(), 2, 7, "first"), [stream[:7], stream[7:14]]
    )
    windows = calibration_windows(path, Letters(), 4, 7, "stream", seed=1)
    spans = [stream[start : start + 7] for start in range(len(stream) - 6)]
    starts = [spans.index(list(window)) for window in windows]
    assert len(set(starts)) == 4
    np.testing.assert_array_equal(
        windows, calibration_windows(path, Letters(), 4, 7, "stream", seed=1)
    )


def test_spans_of_a_stream_never_start_twice_at_one_place(write):
    path = write(DISTINCT[:16])  # 13 places for 4 windows: most draws with repetition collide
    for seed in range(12):
        windows = calibration_windows(path, Letters(), 4, 4, "stream", seed)
        assert len(set(windows[:, 0])) == 4


def test_stream_reaches_both_ends(write):
    path = write("abcdefgh")
    starts = {
        calibration_windows(path, Letters(), 1, 6, "stream", seed)[0, 0] for seed in range(40)
    }
    assert starts == {10, 11, 12}


def test_calibration_errors(write):
    path = write("abcdef", "abcdefghi", "a")
    assert "has 2 documents of at least 4 tokens, which hold 3 windows, 4 wanted" in message_of(
        calibration_windows, path, Letters(), 4, 4
    )
    assert "has 0 documents of at least 10 tokens" in message_of(
        calibration_windows, path, Letters(), 1, 10
    )
    for sample in ("stream", "first"):  # 6 + 2 + 9 + 2 + 1 = 20 tokens
        assert "holds 5 of 4 tokens, 6 wanted" in message_of(
            calibration_windows, path, Letters(), 6, 4, sample
        )
        assert len(calibration_windows(path, Letters(), 5, 4, sample)) == 5
    assert "did you mean 'documents'?" in message_of(
        calibration_windows, path, Letters(), 1, 4, "document"
    )
    assert "seed must not be negative" in message_of(
        calibration_windows, path, Letters(), 1, 4, seed=-1
    )
    assert "has no tokenizer" in message_of(calibration_windows, path, None, 1, 4)


def test_check_vocabulary():
    check_vocabulary(np.array([[0, 9]]), 10)
    for ids, worst in (([[0, 10]], "10"), ([[-1, 3]], "-1")):
        message = message_of(check_vocabulary, np.array(ids), 10, "w.npz:ids")
        assert message.startswith(f"token id {worst} of w.npz:ids is outside the model's")


# ---- random order


def test_shuffled_order_does_not_depend_on_how_many_passes_it_takes():
    texts = [f"{n:05}" for n in range(6000)]  # 512, then 4096, then all
    passes = []

    def read():
        passes.append(1)
        return texts

    order = list(shuffled(read, seed=5))
    assert len(passes) == 3
    assert sorted(order) == list(enumerate(texts))
    keys = np.random.default_rng(5).random(6000)
    assert [index for index, _ in order] == list(np.argsort(keys))
    long = [(i, t) for i, t in shuffled(lambda: texts + ["é" * 3], 5, least_bytes=6)]
    assert long == [(6000, "ééé")]


# ---- a real tokenizer


@pytest.fixture(scope="module")
def real(shared):
    return load_tokenizer(shared / "models" / "llama-16m")


@pytest.mark.parametrize("length", [128, 512])
def test_reference_windows(shared, real, length):
    reference = np.load(shared / "goldens" / "llama-16m.npz")[f"eval_{length}"]
    path = str(shared / "data" / "wikitext2" / "wiki.test.raw")
    windows = evaluation_windows(path, real, length, len(reference))
    np.testing.assert_array_equal(windows, reference)
    copy = evaluation_windows("wikitext2", real, length, 9, data_dir=str(shared / "data"))
    np.testing.assert_array_equal(copy, reference[:9])


def test_spans_of_c4_are_spans_of_its_documents(shared, real):
    path = str(shared / "data" / "c4.jsonl.gz")
    windows = calibration_windows(path, real, 8, 128)
    texts = [real.decode(window[1:-1].tolist()) for window in windows]
    found = {next(i for i, d in enumerate(documents_of(path)) if t in d) for t in texts}
    assert len(found) == 8
