import pytest

from jprune.core.errors import InputError, Interrupted, JpruneError, nearest, unknown


def test_unknown_suggests_the_nearest_name_and_lists_all():
    error = unknown("criterion", "taylr", ["magnitude", "taylor"])
    assert isinstance(error, InputError) and isinstance(error, JpruneError)
    assert str(error) == (
        "unknown criterion 'taylr'; did you mean 'taylor'? (one of magnitude, taylor)"
    )


def test_interrupted_passes_by_handlers_of_errors():
    assert issubclass(Interrupted, BaseException) and not issubclass(Interrupted, Exception)


def test_unknown_suggests_nothing_far_away():
    assert str(unknown("axis", "qqq", ["data"])) == "unknown axis 'qqq' (one of data)"


@pytest.mark.parametrize(
    ("name", "expected"), [("Taylor", "taylor"), ("perplxity", "perplexity"), ("zzz", None)]
)
def test_nearest(name, expected):
    assert nearest(name, ["taylor", "perplexity"]) == expected
