import gzip
import json
import sys
import types

import numpy as np
import pytest

from jprune.core import InputError, sha256_file
from jprune.data import KNOWN, documents, find_source, token_windows


def error_of(function, *args, **kwargs) -> str:
    with pytest.raises(InputError) as caught:
        function(*args, **kwargs)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.fixture
def npz(tmp_path):
    path = tmp_path / "w.npz"
    np.savez(
        path,
        eval_128=np.arange(12, dtype=np.uint16).reshape(3, 4),
        flat=np.arange(3),
        real=np.ones((2, 2)),
        negative=np.array([[1, -1]]),
    )
    return path


def test_local_file_has_no_split_and_field_after_two_colons(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "t", "code": "c"}\n')
    source = find_source(f"{path}::code", "calibration")
    assert (source.files, source.field, source.split) == ((str(path),), "code", None)
    assert list(documents(source)) == ["c"]
    assert list(documents(str(path))) == ["t"]


def test_tokens_are_used_exactly(npz):
    ids = token_windows(f"{npz}:eval_128")
    assert ids.dtype == np.int32
    np.testing.assert_array_equal(ids, [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]])
    assert find_source(f"{npz}:eval_128").is_tokens


def test_token_errors(npz, tmp_path):
    assert "no array 'eval_12'; did you mean 'eval_128'?" in error_of(
        token_windows, f"{npz}:eval_12"
    )
    assert "name an array, e.g." in error_of(token_windows, str(npz))
    assert "int64 of shape [3]" in error_of(token_windows, f"{npz}:flat")
    assert "float64 of shape [2, 2]" in error_of(token_windows, f"{npz}:real")
    assert "-1 to 1" in error_of(token_windows, f"{npz}:negative")
    (tmp_path / "bad.npz").write_bytes(npz.read_bytes()[:100])
    assert "not a readable .npz file" in error_of(token_windows, f"{tmp_path}/bad.npz:x")
    assert "token ids where text is needed" in error_of(documents, f"{npz}:eval_128")
    (tmp_path / "a.txt").write_text("x")
    assert "given as file.npz:key" in error_of(token_windows, str(tmp_path / "a.txt"))


def test_missing_file_suggests_the_nearest(tmp_path):
    (tmp_path / "wiki.test.raw").write_text("x")
    (tmp_path / "w.npz").write_text("x")
    message = error_of(find_source, str(tmp_path / "wiki.tset.raw"))
    assert message.startswith("no such file")
    assert message.endswith(f"did you mean '{tmp_path / 'wiki.test.raw'}'?")
    assert f"no folder {tmp_path / 'nowhere'}" in error_of(
        find_source, str(tmp_path / "nowhere" / "a.txt")
    )
    assert f"did you mean '{tmp_path / 'w.npz'}'" in error_of(find_source, f"{tmp_path}/ww.npz:k")


def test_unknown_name_suggests_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "did you mean 'wikitext2'?" in error_of(find_source, "wikitxt2")
    assert "the data source is empty" in error_of(find_source, "::text")


def test_folder_and_unknown_extension(tmp_path):
    (tmp_path / "b.jsonl").write_text("")
    assert f"e.g. {tmp_path / 'b.jsonl'}" in error_of(find_source, str(tmp_path))
    (tmp_path / "b.csv").write_text("")
    assert "ending in one of .txt" in error_of(find_source, str(tmp_path / "b.csv"))


def test_data_dir_serves_a_single_file_for_any_purpose(tmp_path):
    (tmp_path / "c4.jsonl").write_text('{"text": "x"}\n')
    (tmp_path / "c4.md").write_text("notes")
    for purpose in ("evaluation", "calibration"):
        source = find_source("c4", purpose, str(tmp_path))
        assert source.files == (str(tmp_path / "c4.jsonl"),)
        assert source.split is None
    assert list(documents("c4::text", data_dir=f"{tmp_path}/")) == ["x"]


def test_data_dir_splits_by_name(tmp_path):
    for split in ("train", "valid", "test"):
        (tmp_path / f"ptb.{split}.txt").write_text(split)
        (tmp_path / "wikitext2").mkdir(exist_ok=True)
        (tmp_path / "wikitext2" / f"wiki.{split}.raw").write_text(split)
    for name in ("ptb", "wikitext2"):
        assert list(documents(name, "evaluation", str(tmp_path))) == ["test"]
        assert list(documents(name, "calibration", str(tmp_path))) == ["train"]
        assert find_source(name, "calibration", str(tmp_path)).split == "train"


def test_data_dir_calibration_falls_back_to_validation_but_never_to_test(tmp_path):
    folder = tmp_path / "wikitext2"
    folder.mkdir()
    (folder / "wiki.test.raw").write_text("test")
    message = error_of(find_source, "wikitext2", "calibration", str(tmp_path))
    assert "no train split of 'wikitext2' for calibration" in message
    (folder / "wiki.valid.tokens").write_text("valid")
    source = find_source("wikitext2", "calibration", str(tmp_path))
    assert source.split == "validation"
    assert list(documents(source)) == ["valid"]


def test_data_dir_shards_in_split_folders_are_read_in_order(tmp_path):
    for split, shard, text in (("train", 1, "b"), ("train", 0, "a"), ("test", 0, "c")):
        path = tmp_path / "c4" / split / f"000{shard}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"text": text}) + "\n")
    assert list(documents("c4", "calibration", str(tmp_path))) == ["a", "b"]
    assert list(documents("c4", "evaluation", str(tmp_path))) == ["c"]


def test_data_dir_errors(tmp_path):
    assert "no such folder" in error_of(find_source, "c4", "evaluation", str(tmp_path / "no"))
    (tmp_path / "ptb").mkdir()
    assert "has no text file" in error_of(find_source, "ptb", "evaluation", str(tmp_path))
    (tmp_path / "c4.txt").write_text("a")
    (tmp_path / "c4.raw").write_text("a")
    assert "could be any of" in error_of(find_source, "c4", "evaluation", str(tmp_path))


def test_fingerprint_follows_content(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one")
    before = find_source(str(path)).fingerprint()
    assert before["sha256"] == [sha256_file(path)]
    path.write_text("two")
    assert find_source(str(path)).fingerprint() != before
    hub = find_source("c4", "calibration").fingerprint()
    assert hub["hub"] == "allenai/c4" and "train" in hub["files"]


def test_download_asks_for_the_split_of_the_purpose(monkeypatch):
    import datasets

    asked = []

    def load(repository, **kwargs):
        asked.append((repository, kwargs))
        rows = [{"id": "1", "sentence": "a b"}, {"id": "2", "sentence": "c"}]
        return datasets.Dataset.from_list(rows)

    monkeypatch.setattr(datasets, "load_dataset", load)
    assert list(documents("ptb", "evaluation")) == ["a b", "c"]
    assert list(documents("ptb", "calibration")) == ["a b", "c"]
    assert [kwargs["split"] for _, kwargs in asked] == ["test", "train"]
    assert [list(kwargs["data_files"]) for _, kwargs in asked] == [["test"], ["train"]]
    assert asked[0][0] == "ptb-text-only/ptb_text_only"
    assert asked[0][1]["revision"] == "refs/convert/parquet"
    assert "no field 'body'" in error_of(list, documents("ptb::body"))


def test_failed_download_says_which_file_would_serve(monkeypatch):
    def load(repository, **kwargs):
        raise ConnectionError(f"Couldn't reach {repository}\nand more")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load))
    message = error_of(list, documents("wikitext2"))
    assert "cannot download 'wikitext2'" in message and "Couldn't reach" in message
    assert "--data_dir=D with D/wikitext2.raw" in message


def test_evaluation_and_calibration_data_are_disjoint_where_the_hub_has_two_parts():
    shared = {n for n, hub in KNOWN.items() if len({p.files for p in hub.parts.values()}) == 1}
    assert shared == {"alpaca-cleaned"}


def test_every_kind_of_file_is_read_from_an_object_store(gcs, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    texts = ["one\ntwo", "ü" * 3000]
    lines = "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()
    (tmp_path / "a.jsonl").write_bytes(lines)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(lines))
    (tmp_path / "a.json").write_text(json.dumps([{"text": text} for text in texts]))
    (tmp_path / "a.txt").write_text(texts[0])
    pq.write_table(pa.table({"text": texts}), tmp_path / "a.parquet")
    np.savez(tmp_path / "a.npz", ids=np.arange(6).reshape(2, 3))
    address = gcs.put_folder("data", tmp_path)
    for name in ("a.jsonl", "a.jsonl.gz", "a.json", "a.parquet"):
        assert list(documents(f"{address}/{name}")) == texts, name
    assert list(documents(f"{address}/a.txt")) == texts[:1]
    assert token_windows(f"{address}/a.npz:ids").tolist() == [[0, 1, 2], [3, 4, 5]]
    gcs.put("known/c4/train/0.jsonl", lines)
    assert list(documents("c4", "calibration", "gs://bucket/known")) == texts


def test_parts_of_a_source_are_disjoint_and_all_of_it(tmp_path):
    file = tmp_path / "many.jsonl"
    texts = [f"document {i}" for i in range(100)]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    for of in (2, 3):
        parts = [list(documents(f"{file}@{i}/{of}")) for i in range(1, of + 1)]
        assert sorted(sum(parts, []), key=texts.index) == texts
        assert all(len(part) > 100 / of / 2 for part in parts)
        assert list(documents(f"{file}@1/{of}")) == parts[0]
        assert parts[0] != texts[: len(parts[0])]  # drawn, not the first
    halves = [find_source(f"{file}@{i}/2").fingerprint() for i in (1, 2)]
    assert halves[0] != halves[1] != find_source(str(file)).fingerprint()
    assert list(documents(f"{file}::text@2/2")) == list(documents(f"{file}@2/2"))


def test_parts_of_token_windows(tmp_path):
    ids = np.arange(60).reshape(20, 3)
    np.savez(tmp_path / "ids.npz", ids=ids)
    parts = [token_windows(f"{tmp_path / 'ids.npz'}:ids@{i}/2") for i in (1, 2)]
    np.testing.assert_array_equal(np.sort(np.concatenate(parts), axis=0), ids)


def test_parts_that_are_not_there(tmp_path):
    (tmp_path / "one.txt").write_text("a text is one document")
    with pytest.raises(InputError, match=r"parts are @1/2 to @2/2"):
        find_source(f"{tmp_path / 'one.txt'}@3/2")
    with pytest.raises(InputError, match="is in part . of 2; it has too few to be divided"):
        list(documents(f"{tmp_path / 'one.txt'}@1/2")) + list(
            documents(f"{tmp_path / 'one.txt'}@2/2")
        )
