"""Settings of a search, and those that cannot be."""

import pytest

from jprune.core.errors import InputError
from jprune.search import SearchSettings


def test_json_and_back():
    settings = SearchSettings.from_json({"sampler": "evolution", "rungs": ["1/8", 0.5, 1]})
    assert settings == SearchSettings("evolution", rungs=(0.125, 0.5, 1.0))
    assert SearchSettings.from_json(settings.to_json()) == settings
    assert SearchSettings(rungs=(1,)).to_json()["rungs"] == [1.0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"sampler": "evolutoin"}, "unknown sampler 'evolutoin'; did you mean 'evolution'"),
        ({"trails": 3}, "unknown setting of a search 'trails'; did you mean 'trials'"),
        ({"trials": 0}, "trials of a search is a whole number from 1 on, not 0"),
        ({"trials": 1.5}, "not 1.5"),
        ({"seed": -1}, "seed of a search is a whole number from 0 on, not -1"),
        ({"population": 1}, "population of a search is a whole number from 2 on"),
        ({"startup": -1}, "startup of a search"),
        ({"give_up_after": 0}, "give_up_after of a search"),
        ({"eta": 0.5}, "eta of a search is a number from 1 on, not 0.5"),
        ({"eta": float("nan")}, "not nan"),
        ({"stale_after": "x"}, "stale_after of a search is a number from 1 on, not 'x'"),
        ({"rungs": []}, "rungs are fractions above 0 that rise to 1"),
        ({"rungs": [0.5, 0.25, 1]}, "rise to 1, such as 1/8, 1/2, 1; not \\[0.5, 0.25, 1\\]"),
        ({"rungs": [0, 1]}, "above 0"),
        ({"rungs": [0.5]}, "rise to 1"),
        ({"rungs": ["x", 1]}, "rungs are fractions such as 1/8, 1/2, 1, not"),
        ({"rungs": ["1/0"]}, "rungs are fractions such as"),
    ],
)
def test_errors(data, message):
    with pytest.raises(InputError, match=message):
        SearchSettings.from_json(data)
