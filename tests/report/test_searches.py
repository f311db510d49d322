"""What run.json says of a search: read, and what is not as it should be."""

import pytest

from jprune.core.errors import InputError
from jprune.report.names import brief_names, short_names
from jprune.report.reading import read_run
from jprune.report.searches import parse_search
from tests.report import search_runs
from tests.report.conftest import perplexity_scores


def test_reads_result_front_curve_and_comparisons(make):
    search = read_run(make(search_runs.search_files())).search
    assert (search.base_name, search.variants) == ("base", ("math", "code"))
    assert search.removed == ((1, "block"), (4, "block"))
    assert [(m.layer, m.variants, m.factor) for m in search.mixes] == [
        (0, (1,), None), (2, (0, 1), 0.375), (5, (0,), None),
    ]  # fmt: skip
    assert search.num_trials == 8 and search.score == 0.975
    assert [p.values for p in search.front] == [(3.25, 6.0), (3.5, 5.25), (4.0, 5.125)]
    assert search.curve.score == (None, None, 1.5, 1.25, 1.125, 1.0625, 1.0625, 0.975)
    kinds = {c.phase: (c.kind, c.model, c.merge) for c in search.comparisons}
    assert kinds["depth-code"] == ("depth", "code", None)
    assert kinds["merge-depth"] == ("merge-depth", None, "ties, density 0.2, factor 1")
    # The best first.
    assert [c.model for c in search.removal_curves] == ["math", "base", "code"]


def test_a_search_on_its_way_and_other_runs_have_none(make):
    assert parse_search({}) is None and parse_search({"variants": [{"name": "a"}]}) is None


def test_scores_that_a_search_began_with_decided_nothing(make):
    files = search_runs.search_files() | {"scores/math.json": perplexity_scores()}
    assert read_run(make(files)).chosen is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"base": [4.0]}, "run.json: search: 1 base for 2 objectives"),
        ({"score": "low"}, "run.json: search: score should be a number, not 'low'"),
        ({"candidate": None}, "run.json: search: candidate should be a JSON object, not None"),
        (
            {"candidate": {"removed": [], "mixes": [{"layer": 3, "variants": [2]}]}},
            r"layer 3 is of variants \[2\], but the run has 2 of them",
        ),
        (
            {"front": [{"number": 1, "values": [1.0], "score": 1}]},
            "run.json: search: front: 1 values for 2 objectives",
        ),
        ({"curve": [{"score": 1.0}]}, "run.json: search: curve has no 'trials'"),
    ],
)
def test_what_is_not_as_it_should_be_is_said(changes, message):
    with pytest.raises(InputError, match=message):
        parse_search(search_runs.run_json(search=search_runs.search(**changes)))


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (search_runs.DATA, ["gsm8k", "mbpp"]),
        (["d/a.jsonl::q", "d/a.jsonl::r@1/2"], ["a::q", "a::r"]),
        (["a.txt@1/2", "a.txt@2/2"], ["a@1/2", "a@2/2"]),
        (["a.txt::q@1/2", "a.txt::q@2/2", "a.txt::r"], ["a::q@1/2", "a::q@2/2", "a::r"]),
        (["x/a.txt", "y/a.txt"], ["x/a.txt", "y/a.txt"]),
        (["wikitext2", "w/wiki.test.raw", "c4.jsonl.gz"], ["wikitext2", "wiki.test", "c4"]),
    ],
)
def test_data_are_named_as_briefly_as_tells_them_apart(data, names):
    assert list(brief_names(data).values()) == names


def test_short_names_keep_field_and_part():
    assert list(short_names(["x/a.jsonl::q@2/2", "y/b.txt"]).values()) == [
        "a.jsonl::q@2/2",
        "b.txt",
    ]
