"""What killed processes leave beside and below a destination."""

import os
import socket
import subprocess
import sys

import pytest

from jprune.core import aside, files
from tests.core.test_files import dead_pid, written


def test_leftovers_of_killed_processes_are_cleared_and_outputs_rescued(tmp_path):
    mark = f"{socket.gethostname()}-{dead_pid()}-0123abcd"
    (tmp_path / f".out.tmp-{mark}").mkdir()
    (tmp_path / f".out.old-{mark}").mkdir()
    (tmp_path / f".out.old-{mark}" / "config.json").write_text("old")
    other = tmp_path / f".out.tmp-elsewhere-{dead_pid()}-0123abcd"
    other.mkdir()
    living = aside.name_for(files.as_path(tmp_path / "out"), "tmp")
    living.mkdir()
    with pytest.raises(RuntimeError), files.new_dir(tmp_path / "out"):
        raise RuntimeError
    assert (tmp_path / "out" / "config.json").read_text() == "old"
    assert {p.name for p in tmp_path.iterdir()} == {"out", other.name, living.name}


@pytest.mark.parametrize("name", ["out", "Llama-2-7b", "a.tmp-b"])
@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")
def test_a_process_id_that_is_in_use_again_keeps_no_leftovers(tmp_path, name):
    # A restarted container: the same host name, the same id, another process.
    reused = tmp_path / f".{name}.tmp-{socket.gethostname()}-{os.getpid()}.1-0123abcd"
    reused.mkdir()
    with files.new_dir(tmp_path / name):
        pass
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_remove_leftovers_clears_and_rescues_below_a_folder(tmp_path):
    deep = tmp_path / "W" / "deep"
    for name, text in {
        ".model.old-gone-1.5-0123abcd": "first",
        ".model.old-gone-2.5-0123abcd": "last",
        ".model.tmp-gone-3.5-0123abcd": "half",
        ".there.old-gone-3.5-0123abcd": "replaced",
        "there": "new",
        ".kept": "kept",
    }.items():
        (deep / name).mkdir(parents=True)
        (deep / name / "config.json").write_text(text)
    os.utime(deep / ".model.old-gone-1.5-0123abcd", (1, 1))
    (deep / ".x.json.tmp-gone-3.5-0123abcd").write_text("{")
    (deep / "there" / ".y.tmp-gone-3-abc").write_text("{")
    (deep / ".z.tmp-orary").write_text("not of jprune")
    files.remove_leftovers(tmp_path / "W")
    found = {str(p.relative_to(deep)): p.read_text() for p in deep.rglob("*") if p.is_file()}
    assert found == {
        "model/config.json": "last",
        "there/config.json": "new",
        ".kept/config.json": "kept",
        ".z.tmp-orary": "not of jprune",
    }
    assert {p.name for p in deep.iterdir()} == {"model", "there", ".kept", ".z.tmp-orary"}


KILLED = """
import os, signal, sys
from jprune.core import files
with files.new_dir(sys.argv[1]) as folder:
    (folder / "config.json").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_kill_leaves_the_old_folder_and_the_next_run_cleans_up(tmp_path):
    out = tmp_path / "out"
    written(out)
    subprocess.run([sys.executable, "-c", KILLED, str(out)], check=False)
    assert (out / "config.json").read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
    with files.new_dir(out) as folder:
        (folder / "config.json").write_text("new")
    assert (out / "config.json").read_text() == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
