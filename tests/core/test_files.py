import hashlib
import json
import os
import pathlib
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest

from jprune.core import files
from jprune.core.errors import InputError, Interrupted

RECIPE = '{"version": 1, "sources": [], "steps": []}'


def dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def written(out) -> None:
    """An earlier output with "old" in config.json."""
    with files.new_dir(out) as folder:
        (folder / "config.json").write_text("old")
        (folder / "recipe.json").write_text(RECIPE)


def test_write_makes_parents_and_leaves_nothing_beside(tmp_path):
    files.write_text(tmp_path / "a" / "b.txt", "ü")
    assert (tmp_path / "a" / "b.txt").read_bytes() == "ü".encode()
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b.txt"]


def test_failed_write_keeps_the_old_content(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    files.write_json(path, {"old": 1})

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(InputError, match="No space left on device"):
        files.write_json(path, {"new": 2})
    assert files.read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_unwritable_destination_is_an_input_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        files.write_text(tmp_path / "file" / "below", "x")


def test_json_has_no_nan_and_takes_arrays(tmp_path):
    value = {
        "nan": float("nan"),
        "inf": [float("inf"), 1.5],
        "array": np.array([1, 2]),
        "scalar": np.float32(0.25),
        "path": pathlib.Path("a/b"),
        3: None,
    }
    files.write_json(tmp_path / "x.json", value)
    assert json.loads((tmp_path / "x.json").read_text(), parse_constant=pytest.fail) == {
        "nan": None,
        "inf": [None, 1.5],
        "array": [1, 2],
        "scalar": 0.25,
        "path": "a/b",
        "3": None,
    }


def test_read_json_names_what_is_wrong(tmp_path):
    with pytest.raises(InputError, match="no such file: .*absent.json"):
        files.read_json(tmp_path / "absent.json")
    (tmp_path / "cut.json").write_text('{"a": ')
    with pytest.raises(InputError, match="cut.json is not valid JSON"):
        files.read_json(tmp_path / "cut.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="binary.json is not valid JSON"):
        files.read_json(tmp_path / "binary.json")
    with pytest.raises(InputError, match="cannot read"):
        files.read_json(tmp_path)


def test_new_dir_appears_only_when_complete(tmp_path):
    out = tmp_path / "deep" / "out"
    with files.new_dir(out) as folder:
        (folder / "config.json").write_text("1")
        assert not out.exists() and folder.parent == out.parent
    assert (out / "config.json").read_text() == "1"
    assert [p.name for p in out.parent.iterdir()] == ["out"]


def test_new_dir_failure_keeps_the_old_folder(tmp_path):
    out = tmp_path / "out"
    written(out)
    with pytest.raises(RuntimeError), files.new_dir(out) as folder:
        (folder / "config.json").write_text("half")
        raise RuntimeError
    assert (out / "config.json").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), Interrupted("stop")])
@pytest.mark.parametrize(
    ("before", "after", "left"),
    [
        (".out.tmp-", None, "old"),  # between the two renames
        (None, ".out.old-", "old"),  # at once after the first
        (None, ".tmp-to-out", "new"),  # at once after the second
    ],
)
def test_new_dir_loses_neither_folder_if_the_swap_is_cut_short(
    tmp_path, monkeypatch, error, before, after, left
):
    out = tmp_path / "out"
    written(out)
    rename = os.rename

    def cut(source, target):
        if before and before in str(source):
            raise error
        rename(source, target)
        if after == ".out.old-" and after in str(target):
            raise error
        if after == ".tmp-to-out" and ".out.tmp-" in str(source):
            raise error

    monkeypatch.setattr(os, "rename", cut)
    with pytest.raises(type(error)), files.new_dir(out) as folder:
        (folder / "config.json").write_text("new")
    assert (out / "config.json").read_text() == left
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_new_dir_replaces_the_whole_old_folder(tmp_path):
    out = tmp_path / "out"
    written(out)
    with files.new_dir(out) as folder:
        (folder / "jprune.json").write_text("{}")
    assert [p.name for p in out.iterdir()] == ["jprune.json"]
    with files.new_dir(out):  # jprune.json tells that it may go
        pass
    assert list(out.iterdir()) == []
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"thesis.tex": "x"}, "did not write"),
        ({"config.json": "{}", "thesis.tex": "x"}, "did not write"),
        ({"config.json": "{}", "model.safetensors": "x"}, "did not write"),
        ({"recipe.json": '{"title": "Apple pie", "steps": []}'}, "did not write"),
        ({"recipe.json": "[]"}, "did not write"),
        ({"recipe.json": "{"}, "did not write"),
        ({"run.json": "{}", "config.json": "{}", "recipe.json": RECIPE}, "holds a run of jprune"),
    ],
)
def test_new_dir_never_replaces_what_jprune_did_not_write(tmp_path, content, message):
    (tmp_path / "home").mkdir()
    for name, text in content.items():
        (tmp_path / "home" / name).write_text(text)
    with pytest.raises(InputError, match=message):
        files.check_replaceable(tmp_path / "home")
    with pytest.raises(InputError, match=message), files.new_dir(tmp_path / "home"):
        pytest.fail("must not start")
    assert {p.name: p.read_text() for p in (tmp_path / "home").iterdir()} == content


def test_check_replaceable_lets_pass_what_is_free_or_jprunes(tmp_path):
    files.check_replaceable(tmp_path / "absent" / "deep")
    (tmp_path / "empty").mkdir()
    files.check_replaceable(tmp_path / "empty")
    written(tmp_path / "out")
    files.check_replaceable(tmp_path / "out")
    with pytest.raises(InputError, match="exists; remove it"):
        files.check_replaceable(tmp_path / "out", overwrite=False)


def test_new_dir_needs_a_folder(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("x")
    with (
        pytest.raises(InputError, match="is a file"),
        files.new_dir(tmp_path / "home" / "thesis.tex"),
    ):
        pytest.fail("must not start")


def test_new_dir_without_overwrite(tmp_path):
    (tmp_path / "out").mkdir()
    with files.new_dir(tmp_path / "out", overwrite=False) as folder:  # empty: nothing is lost
        (folder / "config.json").write_text("")
    with (
        pytest.raises(InputError, match="exists; remove it"),
        files.new_dir(tmp_path / "out", overwrite=False),
    ):
        pytest.fail("must not start")


def test_hashes(tmp_path):
    (tmp_path / "f").write_bytes(b"abc")
    assert files.sha256_file(tmp_path / "f") == hashlib.sha256(b"abc").hexdigest()
    assert files.sha256_json({"b": 1, "a": [1.5, "ü"]}) == files.sha256_json(
        {"a": (1.5, "ü"), "b": 1}
    )
    assert files.sha256_json({"b": 1, "a": None}) == hashlib.sha256(b'{"a":null,"b":1}').hexdigest()
    with pytest.raises(InputError, match="cannot read"):
        files.sha256_file(tmp_path / "absent")


def test_array_hash_sees_dtype_shape_and_values_but_not_layout():
    a = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert files.sha256_array(a) == files.sha256_array(np.asfortranarray(a))
    different = [a.reshape(3, 2), a.astype(np.int32), a + 1, a.astype(ml_dtypes.bfloat16)]
    assert len({files.sha256_array(x) for x in [a, *different]}) == 5
    assert files.sha256_array(np.float32(1.0)) == files.sha256_array(np.array(1.0, np.float32))
