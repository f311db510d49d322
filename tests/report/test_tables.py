import csv
import doctest
import io

import pytest

from jprune.core.errors import InputError
from jprune.report import tables

ROWS = [("plain", 65.17377, 3), ('a|b, "c"\n*d* <e> 50% x_y & {z}\\', None, 12)]
COLUMNS = ("name", "PPL", "n")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (65.17377, "65.17"), (118.4727, "118.5"), (1234.5, "1234"), (9999.6, "1.000e4"),
        (12345.6, "1.235e4"), (65.2, "65.20"), (0.0123412, "0.01234"), (3e-7, "3.000e-7"),
        (0.0, "0"), (None, "–"), (float("inf"), "inf"), (float("nan"), "nan"), (-2.5, "-2.500"),
        (7, "7.000"),
    ],
)  # fmt: skip
def test_perplexities_have_four_significant_digits(value, expected):
    assert tables.ppl(value) == expected


def test_counts_and_sizes():
    counts = {950: "950", 12_345: "12.3K", 16_200_000: "16.2M", 6_738_415_616: "6.74B"}
    assert {n: tables.count(n) for n in counts} == counts
    assert tables.count(999_700) == "1.00M"  # not 1e+03K
    assert tables.count(None) == "–"
    sizes = {512: "512 B", 32_400_000: "32.4 MB", 13_476_831_232: "13.5 GB"}
    assert {n: tables.size(n) for n in sizes} == sizes


def test_durations():
    expected = {0.42: "0.42 s", 12.34: "12.3 s", 59.99: "1 min 00 s", 200.2: "3 min 20 s",
                3725.0: "1 h 02 min", 5123.0: "1 h 25 min"}  # fmt: skip
    assert {s: tables.duration(s) for s in expected} == expected


def test_ratios_and_changes():
    assert tables.ratio(118.4727, 65.17377) == "1.82×"
    assert tables.change(13_400_000, 16_200_000) == "-17.3%"
    assert tables.change(5, 5) == "0%"
    assert tables.ratio(1.0, None) == tables.change(None, 3) == tables.ratio(1.0, 0.0) == "–"
    assert tables.signed(0.01234) == "+0.0123"
    assert tables.plus_minus(0.5, 0.0312) == "0.5000 ± 0.0312"
    assert tables.plus_minus(-0.5, None, sign=True) == "-0.5000"


def test_text_aligns_numbers_to_the_right():
    table = tables.render(("name", "PPL"), [("a", "5.0"), ("longer", "118.5"), ("c", None)])
    assert table.splitlines() == [
        "name      PPL",
        "------  -----",
        "a         5.0",
        "longer  118.5",
        "c           –",
    ]


def test_text_keeps_a_row_on_its_line_and_counts_wide_characters():
    lines = tables.render(("a", "b"), [("x\ny\x1b[31m", "z"), ("模型", "z")]).splitlines()
    assert len(lines) == 4
    assert "\x1b" not in lines[2] and lines[2].index("z") == lines[3].index("z") + 2


def test_markdown_escapes_what_would_break_the_table():
    lines = tables.render(COLUMNS, ROWS, "md").splitlines()
    assert lines[1] == "| :--- | ---: | ---: |"
    assert lines[3] == (
        r'| a\|b, "c" \*d\* &lt;e&gt; 50% x\_y &amp; {z}\\ | – | 12 |'
    )  # fmt: skip


def test_csv_reads_back_as_it_went_in():
    read = list(csv.reader(io.StringIO(tables.render(COLUMNS, ROWS, "csv"))))
    assert read == [list(COLUMNS), ["plain", "65.17377", "3"], [ROWS[1][0], "", "12"]]


def test_latex_escapes_every_special_character():
    lines = tables.render(COLUMNS, [*ROWS, ("# $5 ~ ^ 1 ± 2", 1.0, 2)], "tex").splitlines()
    assert lines[0] == r"\begin{tabular}{lrr}"
    row = next(line for line in lines if line.startswith("a|b"))
    assert r"*d* \textless{}e\textgreater{} 50\% x\_y \& \{z\}\textbackslash{} & -- & 12 \\" in row
    assert r"\# \$5 \textasciitilde{} \textasciicircum{} 1 $\pm$ 2 & 1.000 & 2 \\" in lines
    assert lines[-1] == r"\end{tabular}"


def test_an_unknown_format_names_the_nearest():
    with pytest.raises(InputError, match="unknown table format 'cvs'; did you mean 'csv'"):
        tables.render(COLUMNS, ROWS, "cvs")


def test_the_example_in_the_docstring():
    assert doctest.testmod(tables).failed == 0
