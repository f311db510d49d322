"""Windows for training: whole documents end to end, and instructions."""

import json

import numpy as np
import pytest

from jprune.data import (
    TrainingSet,
    alpaca_prompt,
    instruction_rows,
    instruction_set,
    packed_documents,
)
from jprune.data.packing import document_windows
from tests.data.letters import Letters, message_of


class Ending(Letters):
    eos_token_id = 2


def test_documents_end_to_end_with_the_numbers_of_their_windows():
    found = packed_documents(["abc", "", "de", "fghijk"], Ending(), 4)
    #   1 a b c | 2 1 2 1 | d e 2 1 | f g h i | j k 2
    assert found.ids.tolist() == [[1, 10, 11, 12], [2, 1, 2, 1], [13, 14, 2, 1], [15, 16, 17, 18]]
    assert found.segments.tolist() == [[1, 1, 1, 1], [1, 2, 2, 3], [1, 1, 1, 2], [1, 1, 1, 1]]
    assert found.mask.all()
    assert document_windows(["abcd"], Ending(), 3).tolist() == [[1, 10, 11], [12, 13, 2]]


def endless(text, seen):
    while True:
        seen.append(text)
        assert len(seen) < 100
        yield text


@pytest.mark.parametrize(("most", "read"), [(0, 0), (1, 1), (2, 2), (5, 4)])
def test_no_more_text_is_read_than_the_windows_take(most, read):
    seen = []
    found = packed_documents(endless("abc", seen), Ending(), 4, most)
    assert found.ids.shape == (most, 4) and len(seen) == read


def test_no_documents():
    found = packed_documents([], Ending(), 4)
    assert found.ids.shape == found.segments.shape == (0, 4)


ROWS = [
    {"instruction": "add", "input": "", "output": "four"},
    {"instruction": "say", "input": "hi", "output": "hihi"},
]


@pytest.mark.parametrize("loss", ["all", "answer"])
def test_one_instruction_a_window(loss):
    letters = Ending()
    prompts = [alpaca_prompt("add"), alpaca_prompt("say", "hi")]
    assert "### Input:\nhi" in prompts[1] and "Input" not in prompts[0]
    length = len(prompts[1]) + 20
    found = instruction_set(ROWS, letters, length, loss=loss)
    for row, (prompt, example) in enumerate(zip(prompts, ROWS, strict=True)):
        text = letters.encode(prompt + example["output"], add_special_tokens=False)
        size = len(text) + 2
        assert found.ids[row].tolist() == [1, *text, 2] + [0] * (length - size)
        assert found.segments[row].tolist() == [1] * size + [0] * (length - size)
        first = 0 if loss == "all" else len(prompt) + 1
        assert found.mask[row].tolist() == [first <= i < size for i in range(length)]


def test_instructions_are_cut_and_those_without_answer_passed_over(caplog):
    length = len(alpaca_prompt("add")) + 3  # BOS and two letters of the answer
    cut = instruction_set(ROWS, Ending(), length)
    assert cut.ids.shape == (2, length) and cut.mask.all()
    with caplog.at_level("INFO", "jprune"):
        answers = instruction_set(ROWS, Ending(), length, loss="answer")
    assert len(answers) == 1 and answers.mask.sum() == 2 and answers.mask[0, -2:].all()
    assert f"passed over 1 instructions that fill {length} tokens" in caplog.text


def test_a_token_of_prompt_and_answer_together_counts_as_the_answers():
    class Pairs(Ending):
        """A line end and the letter after it are one token."""

        def encode(self, text, add_special_tokens=True):
            ids = super().encode(text, add_special_tokens)
            return ids[:-2] + [99] if len(text) > 1 and text[-2] == "\n" else ids

    row = {"instruction": "add", "output": "f"}
    prompt = alpaca_prompt("add")
    found = instruction_set([row], Pairs(), len(prompt) + 2, loss="answer")
    assert found.ids[0, -2:].tolist() == [99, 2] and found.mask.sum() == 2


def test_no_more_instructions_are_read_than_asked_for():
    seen = []
    assert len(instruction_set(endless(ROWS[0], seen), Ending(), 300, 3)) == 3
    assert len(seen) == 3


def test_an_unknown_loss():
    assert "unknown loss 'answers'; did you mean 'answer'?" in message_of(
        instruction_set, ROWS, Ending(), 300, loss="answers"
    )


# The rows of files.


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet"])
def test_rows_of_files(tmp_path, name):
    path = tmp_path / name
    rows = [ROWS[1], {"instruction": "add", "output": "four", "category": "sums"}] * 4
    if name == "a.jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif name == "a.json":
        path.write_text(json.dumps(rows))
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows), path)
    expected = [ROWS[1], ROWS[0]] * 4
    assert list(instruction_rows(str(path))) == expected
    halves = [list(instruction_rows(f"{path}@{i}/2")) for i in (1, 2)]
    assert sorted(map(str, sum(halves, []))) == sorted(map(str, expected))


def test_rows_of_the_hub(monkeypatch):
    import datasets

    table = datasets.Dataset.from_list(ROWS)
    monkeypatch.setattr(datasets, "load_dataset", lambda *args, **kwargs: table)
    assert list(instruction_rows("alpaca-cleaned")) == ROWS


def test_rows_that_are_no_instructions(tmp_path, write):
    message = message_of(lambda: list(instruction_rows(write("abc"))))
    assert "line 1 is no instruction: it takes the texts instruction and output" in message
    assert "(fields: text)" in message
    path = tmp_path / "b.jsonl"
    path.write_text(json.dumps({"instruction": "a", "output": None}))
    assert "line 1 is no instruction" in message_of(lambda: list(instruction_rows(str(path))))
    (tmp_path / "c.txt").write_text("abc")
    message = message_of(lambda: list(instruction_rows(str(tmp_path / "c.txt"))))
    assert "has no rows; give a file ending in .jsonl, .jsonl.gz" in message
    np.savez(tmp_path / "d.npz", ids=np.zeros((2, 3), int))
    message = message_of(lambda: list(instruction_rows(f"{tmp_path / 'd.npz'}:ids")))
    assert "cannot hold instructions" in message


# Files.


@pytest.mark.parametrize("segmented", [True, False])
def test_a_training_set_is_saved_and_mapped(tmp_path, segmented):
    data = packed_documents(["abc", "de", "fghijk"], Ending(), 4)
    if not segmented:
        data = TrainingSet.of(data.ids)
    data.save(tmp_path / "set")
    data.save(tmp_path / "set")  # in place of the first
    found = TrainingSet.load(tmp_path / "set")
    assert isinstance(found.ids, np.memmap) and len(found) == len(data)
    assert (found.segments is None) == (not segmented)
    assert found.sha256 == data.sha256
    assert [child.name for child in tmp_path.iterdir()] == ["set"]


def test_an_empty_training_set_is_saved_too(tmp_path):
    packed_documents([], Ending(), 4).save(tmp_path / "set")
    assert TrainingSet.load(tmp_path / "set").ids.shape == (0, 4)


def test_training_sets_that_cannot_be_read(tmp_path):
    assert "no training set at" in message_of(TrainingSet.load, tmp_path / "none")
    data = packed_documents(["abc", "de"], Ending(), 4)
    data.save(tmp_path / "set")
    np.save(tmp_path / "set" / "mask.npy", np.ones((2, 3), bool))
    assert "mask.npy has the shape [2, 3], not [2, 4]" in message_of(
        TrainingSet.load, tmp_path / "set"
    )
    (tmp_path / "set" / "ids.npy").write_bytes(b"\x93NUMPY")
    assert "ids.npy is missing or damaged" in message_of(TrainingSet.load, tmp_path / "set")
    record = tmp_path / "set" / "jprune_training_set.json"
    record.write_text(record.read_text().replace('"version": 1', '"version": 2'))
    assert "is a training set of version 2" in message_of(TrainingSet.load, tmp_path / "set")


def test_a_training_set_goes_to_an_object_store(gcs):
    data = packed_documents(["abc", "de", "fghijk"], Ending(), 4)
    data.save("gs://bucket/set")
    assert TrainingSet.load("gs://bucket/set").sha256 == data.sha256


def test_instructions_of_the_shared_data(shared):
    rows = list(instruction_rows(str(shared / "data" / "instruct.jsonl")))
    assert {"instruction", "input", "output"} == set(rows[0])
    assert rows[0]["instruction"].startswith("How do I start running?")
