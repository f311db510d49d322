"""Where studies are kept."""

import logging
import subprocess
import sys
import threading

import pytest

from jprune.core.errors import InputError
from jprune.search.storage import JournalLock, import_optuna, open_storage


def test_half_a_line_at_the_end_is_removed(tmp_path):
    path = tmp_path / "journal"
    whole = b'{"op_code":1}\n' * 3
    for rest in (b"", b'{"op_co', b"x" * 100_000):
        path.write_bytes(whole + rest)
        lock = JournalLock(str(path))
        lock.acquire()
        lock.release()
        assert path.read_bytes() == whole
    path.write_bytes(b'{"op_c')
    lock.acquire()
    lock.release()
    assert path.read_bytes() == b""


def test_a_lock_excludes_others_and_ends_with_its_process(tmp_path):
    path = tmp_path / "journal"
    path.touch()
    code = (
        "import sys, time; from jprune.search.storage import JournalLock; "
        "JournalLock(sys.argv[1]).acquire(); print('locked', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(path)]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "locked\n"
    got = threading.Event()
    lock = JournalLock(str(path))
    thread = threading.Thread(target=lambda: (lock.acquire(), got.set(), lock.release()))
    thread.start()
    assert not got.wait(0.5)
    other.kill()
    other.wait()
    assert got.wait(10)
    thread.join()


def test_a_lock_that_was_left_is_taken_again(tmp_path):
    path = tmp_path / "journal"
    path.touch()
    lock = JournalLock(str(path))
    lock.acquire()  # a signal comes: nobody releases it
    lock.acquire()
    lock.release()
    lock.release()
    JournalLock(str(path)).acquire()


def test_storages(tmp_path):
    optuna = import_optuna()
    made = open_storage(tmp_path / "deep" / "journal.log")
    assert isinstance(made, optuna.storages.JournalStorage)
    assert open_storage(made) is made
    assert isinstance(open_storage(None), optuna.storages.InMemoryStorage)
    url = f"sqlite:///{tmp_path}/study.db"
    optuna.create_study(storage=open_storage(url), study_name="a")
    assert optuna.get_all_study_names(url) == ["a"]


def test_a_database_leaves_logging_alone(tmp_path):
    # Alembic, which makes the tables, would set it up anew where nobody has.
    code = (
        "import logging, sys; from jprune.search.storage import open_storage; "
        "open_storage(sys.argv[1]); from jprune.core.progress import log; "
        "print(log.disabled, logging.getLogger().handlers)"
    )
    command = [sys.executable, "-c", code, f"sqlite:///{tmp_path}/study.db"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "False []\n" and done.stderr == ""


def test_where_the_file_system_has_no_locks(tmp_path, monkeypatch):
    def refuse(descriptor, operation):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("jprune.search.storage.fcntl.flock", refuse)
    optuna = import_optuna()
    optuna.create_study(storage=open_storage(tmp_path / "journal"), study_name="a")
    assert b'"study_name":"a"' in (tmp_path / "journal").read_bytes()


def test_optuna_speaks_through_the_log_of_jprune(tmp_path, caplog, capfd):
    optuna = import_optuna()
    import_optuna()
    logger = optuna.logging.get_logger("optuna.study")
    with caplog.at_level(logging.INFO, "jprune"):
        logger.info("a new study")
        logger.warning("a slow disk")
    # pytest listens to loggers that pass nothing on, too.
    assert {record.message for record in caplog.records} == {"a slow disk"}
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes.txt", b"hello", "is not the journal of a search; give another name"),
        ("config.json", b'{"a": 1}', "is not the journal of a search"),
        ("broken", b'{"op_code":0}\n{"op_code":4}\n', "is not the journal of a search"),
        ("spoilt", b'{"op_code":17,x}\n{"op_code":4}\n', "is not the journal of a search"),
    ],
)
def test_files_that_are_no_journals_stay_as_they_are(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        open_storage(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("gs://bucket/journal", "cannot be kept on object storage \\(gs://bucket/journal\\)"),
        ("nosuch://host/db", "cannot open the storage nosuch://host/db: "),
        ("sqlite:////nowhere/at/all.db", "cannot open the storage sqlite:////nowhere/at/all.db"),
    ],
)
def test_errors(storage, message):
    with pytest.raises(InputError, match=message):
        open_storage(storage)


def test_a_journal_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="cannot write .*file/journal"):
        open_storage(tmp_path / "file" / "journal")
