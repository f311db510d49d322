"""Studies of which evaluations fail, or are interrupted."""

import numpy as np
import pytest

from jprune.core.errors import InputError, Interrupted
from jprune.search import (
    SearchSettings,
    run_study,
)
from jprune.search.storage import open_storage
from tests.search.landscapes import (
    EVERYTHING,
    Recorder,
    drop_space,
    objective,
    removal_loss,
    single,
)


def test_a_failed_evaluation_is_recorded_and_never_the_best(caplog):
    bad = single(3, 6, 9)  # the best there is
    starts = [single(0, 1, 2), bad, single(4, 5, 6)]

    def evaluate(candidate, name, items):
        if candidate == bad:
            raise RuntimeError("out of memory")
        return removal_loss(candidate, name, items)

    storage = open_storage(None)
    settings = SearchSettings("random", 5, rungs=(1,))
    args = (drop_space(), [objective()], evaluate, settings, storage)
    result = run_study(*args, warm_starts=starts)
    row = result.history[1]
    assert (row.state, row.error) == ("failed", "RuntimeError: out of memory")
    assert row.candidate == bad and row.values is None and result.candidate != bad
    assert result.counts() == {"complete": 4, "failed": 1}
    assert storage.get_all_trials(0)[1].state.name == "FAIL"
    assert storage.get_all_trials(0)[1].value is None
    assert "trial 1 failed: RuntimeError: out of memory" in caplog.text


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (lambda items: np.full(len(items), np.nan), "16 of 16 items of text are not finite"),
        (lambda items: np.ones(3), "gave an array of shape \\[3\\]"),
    ],
)
def test_values_that_are_none_fail_too(values, message):
    start = single(0, 1, 2)

    def evaluate(candidate, name, items):
        return values(items) if candidate == start else removal_loss(candidate, name, items)

    args = (drop_space(), [objective()], evaluate, SearchSettings("random", 3, rungs=(1,)))
    result = run_study(*args, warm_starts=[start])
    assert result.history[0].state == "failed"
    with pytest.raises(InputError, match=message):
        raise InputError(result.history[0].error)


def test_a_failed_candidate_is_evaluated_again():
    evaluate = Recorder()
    start, failures = single(0, 1, 2), [1]

    def flaky(candidate, name, items):
        if candidate == start and failures:
            failures.pop()
            raise RuntimeError("once")
        return evaluate(candidate, name, items)

    args = (drop_space(), [objective()], flaky, SearchSettings("random", 3, rungs=(1,)))
    result = run_study(*args, warm_starts=[start, start])
    assert [row.state for row in result.history] == ["failed", "complete", "complete"]
    assert result.history[1].copy_of is None


def test_if_the_first_trials_all_fail_the_error_is_raised(tmp_path):
    class Broken(Exception):
        pass

    works = []

    def evaluate(candidate, name, items):
        if candidate.removed and not works:
            raise Broken("nothing works")
        return removal_loss(candidate, name, items)

    args = (drop_space(), [objective()], evaluate)
    settings = SearchSettings("random", 9, rungs=(1,), give_up_after=4)
    with pytest.raises(Broken, match="nothing works"):
        run_study(*args, settings, tmp_path / "journal")
    works.append(True)
    result = run_study(*args, settings, tmp_path / "journal")
    assert result.counts() == {"complete": 5, "failed": 4}


def test_an_error_of_the_base_is_raised_as_it_is():
    def evaluate(candidate, name, items):
        raise KeyError("no such data")

    with pytest.raises(KeyError, match="no such data"):
        run_study(drop_space(), [objective()], evaluate, EVERYTHING)


def test_an_interruption_keeps_what_is_finished(tmp_path):
    evaluate = Recorder()

    def stopped(candidate, name, items):
        if len(evaluate.calls) == 4:  # the base and three trials
            raise Interrupted("stop")
        return evaluate(candidate, name, items)

    with pytest.raises(Interrupted):
        run_study(drop_space(), [objective()], stopped, EVERYTHING, tmp_path / "journal")
    asked = len(evaluate.calls)
    result = run_study(drop_space(), [objective()], evaluate, EVERYTHING, tmp_path / "journal")
    assert result.counts() == {"complete": 6, "lost": 1}
    lost = next(row for row in result.history if row.state == "lost")
    assert lost.error == "stopped by Interrupted" and lost.number == 3
    assert len(evaluate.calls) - asked == 3
    # Its place, and with it its candidate, went to the next trial.
    assert result.history[4].candidate == lost.candidate
