"""gs:// paths against a stand-in for the store."""

import concurrent.futures
import os
import socket
import subprocess
import sys

import pytest

from jprune.core import files, paths
from jprune.core.errors import InputError
from jprune.core.files import as_path

BIG = 6 * 2**20  # more than gcsfs sends in one piece


def test_files_come_back_as_they_were_written(gcs):
    files.write_json("gs://bucket/a/x.json", {"ü": [1, None]})
    assert files.read_json("gs://bucket/a/x.json") == {"ü": [1, None]}
    files.write_bytes("gs://bucket/a/big", b"0123456" * (BIG // 7))
    assert gcs.objects["a/big"] == b"0123456" * (BIG // 7)
    assert files.sha256_file("gs://bucket/a/x.json") == files.sha256_file(
        as_path("gs://bucket/a/x.json")
    )
    files.write_text("gs://bucket/a/x.json", "new")
    assert gcs.objects["a/x.json"] == b"new"


def test_folders_are_listed_over_several_pages(gcs):
    for number in range(2 * gcs.page + 1):
        gcs.put(f"d/{number:02d}.json", b"1")
    gcs.put("d/sub/x", b"1")
    folder = as_path("gs://bucket/d")
    assert folder.is_dir() and not (folder / "00.json").is_dir()
    assert len(list(folder.glob("*.json"))) == 2 * gcs.page + 1
    assert {child.name for child in folder.iterdir()} >= {"00.json", "10.json", "sub"}
    assert not as_path("gs://bucket/absent").exists()
    with pytest.raises(InputError, match="no such file: gs://bucket/absent.json"):
        files.read_json("gs://bucket/absent.json")


def test_what_another_process_wrote_is_seen_at_once(gcs):
    gcs.put("d/old", b"1")
    folder = as_path("gs://bucket/d")
    assert [child.name for child in folder.iterdir()] == ["old"]
    gcs.put("d/new", b"2")
    assert sorted(child.name for child in folder.iterdir()) == ["new", "old"]
    assert (folder / "new").exists()
    gcs.put("d/old", b"changed")
    assert (folder / "old").read_bytes() == b"changed"


def test_a_stream_that_fails_leaves_nothing(gcs):
    with pytest.raises(RuntimeError), files.open_new("gs://bucket/small") as stream:
        stream.write(b"half")
        raise RuntimeError
    with pytest.raises(RuntimeError), files.open_new("gs://bucket/big") as stream:
        stream.write(bytes(2 * BIG))  # some of it has been sent
        raise RuntimeError
    del stream
    assert gcs.objects == {}
    with files.open_new("gs://bucket/whole") as stream:
        stream.write(bytes(BIG))
        stream.write(b"end")
        assert gcs.objects == {}
    assert gcs.objects == {"whole": bytes(BIG) + b"end"}


def test_create_lets_one_of_many_win(gcs, tmp_path):
    contents = [b"%d" % number for number in range(8)]
    for place in ("gs://bucket/x", tmp_path / "x"):
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            won = list(pool.map(files.create_bytes, [place] * 8, contents))
        assert sum(won) == 1
        assert files.read_bytes(place) == contents[won.index(True)]


def test_the_stand_in_renames_nothing(gcs):
    gcs.put("x", b"1")
    with pytest.raises(InputError, match="answers with an error"):
        as_path("gs://bucket/x").rename("gs://bucket/y")
    assert gcs.objects == {"x": b"1"}


def test_no_bucket_is_ever_made(gcs):
    as_path("gs://nowhere/a").mkdir(parents=True, exist_ok=True)
    for use in (
        lambda: as_path("gs://nowhere/a").is_dir(),
        lambda: as_path("gs://nowhere/a").exists(),
        lambda: list(as_path("gs://nowhere/a").iterdir()),
        lambda: files.read_json("gs://nowhere/a.json"),
        lambda: files.write_text("gs://nowhere/a.json", "x"),
    ):
        with pytest.raises(InputError, match="no such bucket: gs://nowhere; check the name"):
            use()
    assert ("POST", "/storage/v1/b") not in gcs.requests and list(gcs.buckets) == ["bucket"]


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (
            401,
            "gs://closed asks for credentials.*: log in with `gcloud auth",
        ),
        (403, "gs://closed refuses this: .*role Storage Object User"),
    ],
)
def test_refusals_are_not_taken_for_absence(gcs, status, message):
    gcs.buckets["closed"] = {}
    gcs.refused["closed"] = status
    for use in (
        lambda: as_path("gs://closed/a").is_dir(),
        lambda: as_path("gs://closed/a").exists(),
        lambda: files.read_json("gs://closed/a.json"),
        lambda: files.write_text("gs://closed/a.json", "x"),
    ):
        with pytest.raises(InputError, match=message):
            use()


def test_a_dead_network_is_found_out_in_seconds(gcs, monkeypatch):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    message = "cannot reach http://127.0.0.1:9 for gs://far: Cannot connect.*; check the network"
    with pytest.raises(InputError, match=message):
        as_path("gs://far/a").exists()


def test_a_silent_store_is_found_out_too(gcs, monkeypatch):
    from jprune.core import gcs as client

    monkeypatch.setattr(client, "FIRST_ANSWER_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:  # takes calls, and never speaks
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(InputError, match=r"cannot reach .* no answer in 0.3 s"):
            as_path("gs://silent/a").exists()


def test_a_bad_key_file_is_named(gcs, monkeypatch, tmp_path):
    from jprune.core import gcs as client

    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "absent.json"))
    with pytest.raises(InputError, match="GOOGLE_APPLICATION_CREDENTIALS names no.*absent.json"):
        client._credentials()


def test_other_stores_are_refused():
    with pytest.raises(InputError, match="s3:// is no place that jprune reads or writes"):
        as_path("s3://bucket/a")


def test_a_missing_client_says_what_to_install(monkeypatch):
    paths._connect.cache_clear()
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    monkeypatch.setitem(sys.modules, "gcsfs.core", None)
    monkeypatch.delitem(sys.modules, "jprune.core.gcs", raising=False)
    monkeypatch.delattr("jprune.core.gcs", raising=False)
    with pytest.raises(InputError, match=r"pip install 'jprune\[gcs\]'"):
        as_path("gs://bucket/a")


def test_the_client_is_imported_only_for_gs():
    code = "import sys, jprune; jprune.core.as_path('a'); print(*sys.modules)"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    modules = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True
    ).stdout.split()
    assert "jprune" in modules and not {"gcsfs", "fsspec", "grpc"} & set(modules)


def test_resolved_gives_a_place_one_name(gcs, tmp_path, monkeypatch):
    assert str(paths.resolved("gs://bucket/a/")) == "gs://bucket/a"
    assert str(paths.resolved("gs://bucket/a/../b")) == "gs://bucket/b"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    assert str(paths.resolved("link")) == str(paths.resolved(tmp_path / "real"))


def test_a_reader_never_sees_two_versions_in_one(gcs):
    short, long = {"a": 1}, {"a": "x" * 2000}
    stop = False

    def replace():
        while not stop:
            files.write_json("gs://bucket/x.json", long)
            files.write_json("gs://bucket/x.json", short)

    files.write_json("gs://bucket/x.json", short)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        writer = pool.submit(replace)
        try:
            for _ in range(100):
                assert files.read_json("gs://bucket/x.json") in (short, long)
        finally:
            stop = True
        writer.result()
