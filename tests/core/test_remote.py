"""Folders on an object store: whole, or known not to be."""

import itertools

import pytest

from jprune.core import files
from jprune.core.errors import InputError
from jprune.core.files import as_path
from jprune.core.remote import (
    MANIFEST,
    UNFINISHED,
    check_finished,
    files_below,
    local_files,
    local_output,
    versions,
)

OUT = "gs://bucket/out"


def fill(content):
    with files.new_dir(OUT) as folder:
        for name, text in content.items():
            files.write_text(folder / name, text)


def found(gcs):
    ours = {f"out/{MANIFEST}", f"out/{UNFINISHED}"}
    return {
        n.removeprefix("out/"): d.decode()
        for n, d in gcs.objects.items()
        if n.startswith("out/") and n not in ours
    }


def test_a_folder_is_complete_with_its_manifest(gcs):
    with files.new_dir(OUT) as folder:
        assert not files.is_complete(OUT)
        files.write_text(folder / "config.json", "1")
        files.write_text(folder / "sub" / "x", "2")
        with pytest.raises(InputError, match="gs://bucket/out is half-written"):
            check_finished(OUT)
    assert files.is_complete(OUT)
    check_finished(OUT)
    assert files.read_json(f"{OUT}/{MANIFEST}")["files"] == ["config.json", "sub/x"]
    assert set(gcs.objects) == {"out/config.json", "out/sub/x", f"out/{MANIFEST}"}


def test_killed_at_any_moment_a_folder_is_old_or_new_or_known_as_neither(gcs):
    old, new = {"a": "old", "b/c": "old"}, {"a": "new", "d": "new"}
    seen = set()
    for changes in itertools.count():
        gcs.clear()
        fill(old)
        gcs.changes_left = changes
        try:
            fill(new)
            died = False
        except InputError:
            died = True
        gcs.changes_left = None
        if files.is_complete(OUT):
            check_finished(OUT)
            assert found(gcs) in (old, new)
            seen.add("old" if found(gcs) == old else "new")
        else:
            with pytest.raises(InputError, match="half-written"):
                check_finished(OUT)
            seen.add("neither")
        files.check_replaceable(OUT)  # what is left never stands in the way
        if not died:
            break
    assert changes > 6 and seen == {"old", "neither", "new"}
    assert found(gcs) == new


def test_a_failed_block_leaves_a_folder_that_is_known_as_unfinished(gcs):
    with pytest.raises(RuntimeError), files.new_dir(OUT) as folder:
        files.write_text(folder / "a", "half")
        raise RuntimeError
    with pytest.raises(InputError, match="half-written"):
        check_finished(OUT)
    fill({"b": "whole"})
    assert found(gcs) == {"b": "whole"}


def test_of_two_writers_the_first_does_not_complete_what_the_second_began(gcs):
    with pytest.raises(InputError, match="another process writes"), files.new_dir(OUT) as folder:
        files.write_text(folder / "a", "first")
        with files.new_dir(OUT) as second:
            files.write_text(second / "b", "second")
    assert files.is_complete(OUT) and found(gcs) == {"b": "second"}


def test_what_jprune_did_not_write_stays(gcs):
    gcs.put("out/thesis.tex", b"x")
    with pytest.raises(InputError, match="did not write"), files.new_dir(OUT):
        pytest.fail("must not start")
    assert gcs.objects == {"out/thesis.tex": b"x"}


def test_versions_change_with_every_write(gcs, tmp_path):
    for folder in (OUT, tmp_path):
        folder = as_path(folder)
        for name in ("b", "a", "sub/c"):
            files.write_text(folder / name, name)
        before = versions(folder)
        assert list(before) == ["a", "b", "sub/c"]
        assert [size for size, _ in before.values()] == [1, 1, 5]
        files.write_text(folder / "b", "x")
        after = versions(folder)
        assert {name for name in before if before[name] != after[name]} == {"b"}
        assert files_below(folder) == [folder / name for name in before]
        assert versions(folder / "absent") == {}
    gcs.put("outside/d", b"1")  # of another name that starts alike
    assert "d" not in "".join(versions(OUT))


def test_local_copies_and_outputs(gcs, tmp_path):
    gcs.put("t/a", b"1")
    gcs.put("t/sub/b", b"2")
    folder = as_path("gs://bucket/t")
    with local_files(folder, [folder / "sub" / "b"]) as local:
        assert (as_path(local) / "sub" / "b").read_bytes() == b"2"
        assert not (as_path(local) / "a").exists()
    assert not as_path(local).exists()
    with local_output(folder) as local:
        (as_path(local) / "c").write_text("3")
    assert gcs.objects["t/c"] == b"3" and not as_path(local).exists()
    with local_files(tmp_path, []) as same, local_output(tmp_path) as there:
        assert same == there == str(tmp_path)
