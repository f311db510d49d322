"""Rows of named data sets, from every kind of file and from a hub that is not there."""

import gzip
import json
import sys
import types

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jprune.data.rows import HubRows, named_rows
from tests.data.letters import message_of

ROWS = [{"q": "one", "c": {"text": ["a", "b"]}, "n": 1}, {"q": "two", "c": {"text": []}, "n": 2}]
HUB = HubRows("owner/set", "validation", "part")


def write(path, rows=ROWS):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(lines.encode()))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text(lines)


@pytest.mark.parametrize("end", [".jsonl", ".jsonl.gz", ".json", ".parquet"])
def test_kinds_of_files(tmp_path, end):
    write(tmp_path / f"quiz{end}")
    found = named_rows("quiz", HUB, data_dir=str(tmp_path))
    assert [row for _, row in found] == ROWS
    assert [where.rpartition(" ")[2] for where, _ in found] == ["1", "2"]
    assert str(tmp_path / f"quiz{end}") in found[0][0]
    assert [row for _, row in named_rows("quiz", HUB, 1, str(tmp_path))] == ROWS[:1]


def test_many_rows_of_parquet_are_numbered(tmp_path):
    write(tmp_path / "quiz.parquet", [{"n": n} for n in range(2500)])
    found = named_rows("quiz", HUB, data_dir=str(tmp_path))
    assert [row["n"] for _, row in found] == list(range(2500))
    assert found[-1][0].endswith("quiz.parquet, row 2500")


def test_the_split_of_the_hub(tmp_path):
    for number, split in enumerate(("train", "validation", "test")):
        write(tmp_path / "quiz" / f"{split}-00000-of-00001.parquet", [{"n": number}])

    def found(split):
        rows = named_rows("quiz", HubRows("o/s", split), data_dir=str(tmp_path))
        return [row["n"] for _, row in rows]

    assert found("validation") == [1] and found("test") == [2]
    (tmp_path / "quiz" / "test-00000-of-00001.parquet").unlink()
    assert found("test") == [1]


def test_messages(tmp_path):
    (tmp_path / "quiz.txt").write_text("text")
    expected = f"{tmp_path}/quiz.txt has no rows; give a file ending in .jsonl, "
    assert message_of(named_rows, "quiz", HUB, None, str(tmp_path)).startswith(expected)
    (tmp_path / "quiz.txt").unlink()
    (tmp_path / "quiz.jsonl").write_text('{"a": 1}\n{"a" 1}\n')
    found = message_of(named_rows, "quiz", HUB, None, str(tmp_path))
    assert found.startswith(f"{tmp_path}/quiz.jsonl, line 2, column ")
    (tmp_path / "quiz.jsonl").write_text("")
    expected = f"quiz has no rows in {tmp_path}/quiz.jsonl"
    assert message_of(named_rows, "quiz", HUB, None, str(tmp_path)) == expected
    gone = str(tmp_path / "gone")
    assert message_of(named_rows, "quiz", HUB, None, gone) == f"--data_dir: no such folder: {gone}"


def test_the_hub(monkeypatch, tmp_path):
    calls = []

    def load_dataset(*args, **kwargs):
        calls.append((args, kwargs))
        if kwargs["split"] == "missing":
            raise ConnectionError("no network\nat all")
        return ROWS

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
    assert named_rows("quiz", HUB, 1) == [("row 1 of quiz", ROWS[0])]
    # A folder without the name sends on to the hub.
    assert len(named_rows("quiz", HUB, data_dir=str(tmp_path))) == 2
    assert calls == [(("owner/set", "part"), {"split": "validation"})] * 2
    assert message_of(named_rows, "quiz", HubRows("o/s", "missing")) == (
        "cannot download 'quiz' (o/s on the Hugging Face hub): no network. A local copy serves "
        "instead: --data_dir=D with D/quiz.jsonl or D/quiz.parquet"
    )
