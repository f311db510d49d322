import importlib
import re

module = importlib.import_module("jprune.core.progress")  # the package exports the function


def test_lines_off_a_terminal_are_rare_and_the_last_one_says_all(capsys, monkeypatch):
    clock = iter(range(0, 1000, 2))  # every item takes two seconds
    monkeypatch.setattr(module.time, "monotonic", lambda: float(next(clock)))
    assert list(module.progress(list("abcdefghi"), "scoring", unit="block")) == list("abcdefghi")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "scoring: 3/9 block, 0.5 block/s, ETA 0:12",
        "scoring: 6/9 block, 0.5 block/s, ETA 0:06",
        "scoring: 9/9 block, 0.45 block/s, took 0:20",
    ]


def test_unknown_total(capsys):
    assert list(module.progress((i for i in range(3)), "reading")) == [0, 1, 2]
    assert re.fullmatch(r"reading: 3 it, \S+ it/s, took 0:00\n", capsys.readouterr().err)


def test_given_total_wins(capsys):
    assert list(module.progress((i for i in range(3)), "reading", total=3)) == [0, 1, 2]
    assert "reading: 3/3 it" in capsys.readouterr().err


def test_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setattr(module.sys.stderr, "isatty", lambda: True, raising=False)
    assert list(module.progress(range(4), "scoring")) == [0, 1, 2, 3]
    err = capsys.readouterr().err
    assert "scoring:   0%" in err
    assert "took" not in err


def test_hours():
    assert module._line("x", 1, 4000, 3.0, "it") == "x: 1/4000 it, 0.333 it/s, ETA 3:19:57"
