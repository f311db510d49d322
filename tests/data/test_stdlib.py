import pathlib

import pytest

from jprune.core.errors import InputError
from jprune.data import documents, find_source
from jprune.data.stdlib import read_source, split_of, stdlib_files, stdlib_split


@pytest.fixture
def library(tmp_path):
    """A standard library of a few files, some of them to be left out."""
    names = [
        *("abc.py", "json/__init__.py", "json/decoder.py", "secrets.py", "token.py"),
        *("site-packages/numpy.py", "test/test_json.py", "json/tests/test_decode.py"),
        *("idlelib/idle.py", "encodings/cp037.py", "lib2to3/pytree.py", "turtledemo/clock.py"),
        *("_sysconfigdata__linux_x86_64.py", "config-3.12-x86_64/python-config.py", "notes.txt"),
    ]
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"# {name}\n")
    return tmp_path


def test_files_are_sorted_and_free_of_tests_and_tables(library):
    files = stdlib_files(library)
    expected = ["abc.py", "json/__init__.py", "json/decoder.py", "secrets.py", "token.py"]
    assert list(files) == expected
    assert files["json/decoder.py"] == library / "json" / "decoder.py"


def test_split_is_a_hash_of_the_name():
    # SHA-256 begins 0x0c1b (4.7% of the way), 0x0a1e (4.0%), 0xc4e9 (77%) and 0xd9d7 (85%).
    held_out = [n for n in ("secrets.py", "token.py", "abc.py", "os.py") if is_held_out(n)]
    assert held_out == ["secrets.py", "token.py"]


def is_held_out(name):
    return split_of(name) == "validation"


def texts(split, folder=None):
    return [text for path in stdlib_split(split, folder) for text in read_source(path)]


def test_documents_of_a_split(library):
    assert texts("validation", library) == ["# secrets.py\n", "# token.py\n"]
    train = ["# abc.py\n", "# json/__init__.py\n", "# json/decoder.py\n"]
    assert texts("train", library) == train
    (library / "abc.py").write_bytes("# caf\xe9".encode("latin-1"))
    (library / "json" / "__init__.py").write_text(" \n")
    (library / "json" / "decoder.py").write_bytes(b"x = 1\r\ny = 2\r\n")
    assert texts("train", library) == ["x = 1\ny = 2\n"]


def test_own_library_has_disjoint_splits():
    train, validation = set(stdlib_split("train")), set(stdlib_split("validation"))
    assert train.isdisjoint(validation)
    assert train | validation == set(stdlib_files().values())
    assert 0.02 < len(validation) / len(train) < 0.1
    assert sum(len(text) for text in texts("validation")) > 100_000


def test_source_takes_the_split_for_its_purpose():
    evaluation, calibration = find_source("stdlib"), find_source("stdlib", "calibration")
    assert (evaluation.split, calibration.split) == ("validation", "train")
    assert [pathlib.Path(name) for name in evaluation.files] == stdlib_split("validation")
    assert list(documents("stdlib")) == texts("validation")
    assert len(evaluation.fingerprint()["sha256"]) == len(evaluation.files)


def test_errors(tmp_path):
    with pytest.raises(InputError, match="did you mean 'train'"):
        stdlib_split("trian")
    with pytest.raises(InputError, match="no standard library sources"):
        stdlib_files(tmp_path)
