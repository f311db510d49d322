import io
import json
import pathlib
import sys

import jax
import pytest

from jprune.cli import output
from jprune.cli.parsing import Flags
from jprune.core.errors import InputError
from jprune.core.version import __version__


@pytest.fixture
def flags(tmp_path):
    from jprune.cli import flag

    flags = Flags()
    flag.text(flags, "out", None, "file")
    flags(["score", f"--out={tmp_path / 'deep' / 'r.json'}"])
    flags.started(["jprune", "score", "--out=a b"])
    return flags


def test_result_in_its_envelope(flags):
    returned = output.write(flags, {"scores": [1.5, float("nan")]}, {"data": "c4"})
    written = json.loads(pathlib.Path(flags.out).read_text())
    assert written["schema_version"] == output.SCHEMA_VERSION
    assert written["command_line"] == "jprune score '--out=a b'"
    assert written["versions"]["jprune"] == __version__
    assert written["versions"]["jax"] == jax.__version__
    assert written["versions"].keys() == {"jprune", "jax", "jaxlib", "flax", "python"}
    assert written["device"] == {
        "platform": jax.default_backend(),
        "kind": jax.devices()[0].device_kind,
        "count": jax.device_count(),
    }
    assert written["seconds"] >= 0 and written["protocol"] == {"data": "c4"}
    assert written["scores"] == [1.5, None]
    assert returned["scores"][0] == 1.5


def test_out_must_be_a_file_name(tmp_path):
    with pytest.raises(InputError, match="is a folder; give the name of a JSON file"):
        output.check_out_file(str(tmp_path))
    output.check_out_file(None)
    output.check_out_file(str(tmp_path / "new.json"))


def test_bars_are_proportional():
    assert output.bars([8.0, 4.0, 0.0, None, -1.0, 0.25]) == ["█" * 24, "█" * 12, "", "", "", "▊"]
    assert output.bars([None, float("nan"), float("inf"), 0.0])[0] == ""


def test_giants_are_cut_so_that_the_rest_can_be_told_apart():
    bars = output.bars([100.0, 4.0, 2.0, 1.0, 0.5])
    assert bars == ["█" * 23 + "+", "█" * 24, "█" * 12, "█" * 6, "█" * 3]


def test_bars_without_unicode(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert output.bars([2.0, 1.0]) == ["#" * 24, "#" * 12]


def test_table():
    assert output.table([("a", 1), ("bb", 22)], ("name", "n")) == (
        "name   n\n----  --\na      1\nbb    22"
    )


def test_a_place_that_cannot_be_written_is_refused_at_once(tmp_path, monkeypatch):
    output.check_out_file(str(tmp_path / "new" / "deep" / "r.json"))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot write --out=.*r.json: .*file is a file; give"):
        output.check_out_file(str(tmp_path / "file" / "r.json"))
    monkeypatch.setattr(output.os, "access", lambda path, mode: False)  # root may write anywhere
    with pytest.raises(
        InputError, match=r"cannot write --out=.*r.json: .* cannot be written; give"
    ):
        output.check_out_file(str(tmp_path / "new" / "r.json"))
