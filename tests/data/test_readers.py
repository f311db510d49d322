import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jprune.core import InputError
from jprune.data.readers import EXTENSIONS, extension, read_documents


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_plain_text_is_one_unmodified_document(tmp_path):
    data = b" \r\n = Title = \n\n caf\xc3\xa9 \n"
    for end in (".txt", ".raw", ".tokens"):
        path = tmp_path / f"a{end}"
        path.write_bytes(data)
        assert list(read_documents(str(path))) == [" \r\n = Title = \n\n café \n"]


@pytest.mark.parametrize("field", ["text", "content", "document", "sentence"])
def test_text_field_is_detected_among_others(tmp_path, field):
    rows = [{"id": "x", "url": "u", field: "one"}, {"id": "y", "url": "v", field: ""}]
    path = write_lines(tmp_path / "a.jsonl", rows)
    assert list(read_documents(path)) == ["one", ""]


def test_text_comes_before_content_and_must_be_a_string(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [{"content": "no", "text": "yes"}])
    assert list(read_documents(path)) == ["yes"]
    path = write_lines(tmp_path / "b.jsonl", [{"content": "yes", "text": 3}])
    assert list(read_documents(path)) == ["yes"]


def test_only_string_field_is_the_text_and_a_choice_overrides(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [{"n": 1, "quote": "q"}])
    assert list(read_documents(path)) == ["q"]
    path = write_lines(tmp_path / "b.jsonl", [{"text": "t", "code": "c"}])
    assert list(read_documents(path, "code")) == ["c"]


def test_instructions_become_alpaca_prompt_and_answer(tmp_path):
    rows = [
        {"instruction": "Add.", "input": "1 2", "output": "3"},
        {"instruction": "Greet.", "input": "", "output": "Hi"},
    ]
    with_input, without = read_documents(write_lines(tmp_path / "a.jsonl", rows))
    assert with_input.endswith("### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n3")
    assert without.endswith(
        "completes the request.\n\n### Instruction:\nGreet.\n\n### Response:\nHi"
    )


def test_every_kind_of_file_with_rows_gives_the_same_documents(tmp_path):
    rows = [{"id": n, "text": f"document {n}\n"} for n in range(5)]
    expected = [row["text"] for row in rows]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "a.jsonl").write_text(lines + "\n")
    (tmp_path / "lines.json").write_text(lines)
    (tmp_path / "array.json").write_text(json.dumps(rows, indent=1))
    (tmp_path / "object.json").write_text(json.dumps({"version": 1, "data": rows}, indent=1))
    (tmp_path / "strings.json").write_text(json.dumps(expected))
    for name in ("a.jsonl.gz", "a.json.gz"):
        (tmp_path / name).write_bytes(gzip.compress(lines.encode()))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet", row_group_size=2)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 8
    for file in files:
        assert list(read_documents(str(file))) == expected, file.name


def test_single_row_json_object(tmp_path):
    path = tmp_path / "one.json"
    path.write_text(json.dumps({"text": "only"}))
    assert list(read_documents(str(path))) == ["only"]


def test_rows_are_read_lazily(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "good"}\nnot json\n')
    rows = read_documents(str(path))
    assert next(rows) == "good"
    with pytest.raises(InputError, match=r"a\.jsonl, line 2, column 1: not valid JSON"):
        next(rows)


def test_wrong_field_names_the_fields_and_the_nearest(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [{"title": "t", "contents": "c"}])
    message = r"no field 'content'; did you mean 'contents'\? \(fields: title, contents\)"
    with pytest.raises(InputError, match=message):
        list(read_documents(path, "content"))
    pq.write_table(pa.table({"title": ["t"], "contents": ["c"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=message):
        list(read_documents(str(tmp_path / "a.parquet"), "content"))


def test_undetectable_field_names_the_fields(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [{"left": "t", "right": "c"}])
    with pytest.raises(InputError, match=r"which field .* \(fields: left, right\).*a\.jsonl::left"):
        list(read_documents(path))


@pytest.mark.parametrize("row", [{"other": "x"}, {"text": None}, {"text": 3}])
def test_row_without_text_is_named(tmp_path, row):
    path = write_lines(tmp_path / "a.jsonl", [{"text": "x"}, row])
    with pytest.raises(InputError, match=r"a\.jsonl: line 2 has no text"):
        list(read_documents(path))


def test_row_that_is_no_object(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [[1, 2]])
    with pytest.raises(InputError, match="line 1 is no object"):
        list(read_documents(path))


def test_truncated_and_corrupt_gzip_name_file_and_line(tmp_path):
    whole = gzip.compress(b"".join(b'{"text": "%d"}\n' % n for n in range(2000)))
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(whole[:-20])
    assert next(read_documents(str(path))) == "0"  # what is there is read as it streams in
    with pytest.raises(InputError, match=r"a\.jsonl\.gz, line \d+: truncated or corrupt gzip"):
        list(read_documents(str(path)))
    path.write_bytes(b'{"text": "plain"}\n')
    with pytest.raises(InputError, match=r"a\.jsonl\.gz, line 1: truncated or corrupt gzip"):
        list(read_documents(str(path)))


def test_corrupt_parquet_json_and_encoding(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 this is not a parquet file PAR1")
    with pytest.raises(InputError, match=r"a\.parquet: corrupt parquet"):
        list(read_documents(str(tmp_path / "a.parquet")))
    (tmp_path / "a.json").write_text('[{"text": "a"},\n {"text": ]')
    with pytest.raises(InputError, match=r"a\.json, line 2, column 11: not valid JSON"):
        list(read_documents(str(tmp_path / "a.json")))
    (tmp_path / "a.txt").write_bytes(b"one\ntwo\n\xff\xfe")
    with pytest.raises(InputError, match=r"a\.txt, line 3: not UTF-8"):
        list(read_documents(str(tmp_path / "a.txt")))


def test_plain_text_has_no_fields(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match="plain text and has no fields"):
        list(read_documents(str(tmp_path / "a.txt"), "text"))


def test_extensions():
    assert extension("d/a.jsonl.gz") == ".jsonl.gz"
    assert extension("A.TXT") == ".txt"
    assert extension("wiki.test.raw") == ".raw"
    assert extension("a.csv") is None
    with pytest.raises(InputError, match=r"ends in one of \.txt"):
        list(read_documents("a.csv"))
    assert {".txt", ".raw", ".tokens", ".jsonl", ".jsonl.gz", ".json", ".parquet"} <= {*EXTENSIONS}


def test_several_fields_make_one_text(tmp_path):
    file = tmp_path / "qa.jsonl"
    rows = [{"question": f"q{i}", "answer": f"a{i}"} for i in range(2)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert list(read_documents(str(file), "question+answer")) == ["q0\na0", "q1\na1"]
    with pytest.raises(InputError, match="no field 'anser'; did you mean 'answer'"):
        list(read_documents(str(file), "question+anser"))
