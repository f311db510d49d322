"""Studies that several workers share, some of which die."""

import threading

import pytest

from jprune.search import (
    SearchSettings,
    run_study,
)
from jprune.search.storage import open_storage
from jprune.search.trials import Reached, Trials
from jprune.search.workers import worker
from tests.search.landscapes import (
    Recorder,
    drop_space,
    layers,
    objective,
    removal_loss,
    single,
)


@pytest.mark.parametrize("where", ["journal", "sqlite"])
@pytest.mark.parametrize("sampler", ["random", "greedy", "tpe"])
def test_workers_share_the_budget_exactly(tmp_path, where, sampler):
    space = drop_space(2)
    trials = 23 if sampler == "greedy" else 20
    url = str(tmp_path / "journal") if where == "journal" else f"sqlite:///{tmp_path}/study.db"
    evaluate, results, errors = Recorder(), [], []
    settings = SearchSettings(sampler, trials, rungs=(1 / 4, 1), startup=5)
    start = threading.Barrier(3)

    def work():
        try:
            start.wait()
            results.append(run_study(space, [objective()], evaluate, settings, url))
        except BaseException as error:
            errors.append(error)

    open_storage(url)
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    for result in results:
        assert len(result.history) == len(result.curve) == trials
        assert result == results[0]
    evaluated = [(who, items) for who, _, items in evaluate.calls if who.removed]
    assert len(set(evaluated)) == len(evaluated)  # nothing twice
    if sampler == "greedy":
        assert layers(results[0].candidate) == {3, 6}


def foreign_trial(storage, signature):
    """A running trial of a worker elsewhere."""
    trials = Trials(storage, "search", [objective()], _key_of(storage))
    trial = trials.create(signature)
    trials.set(trial, "slot", 2)
    trials.set(trial, "candidate", single(0, 1, 2).to_json())
    return trials, trial


def _key_of(storage):
    return storage.get_study_user_attrs(0)["search"]


def test_a_silent_worker_elsewhere_is_told_failed_and_replaced(tmp_path, caplog):
    path = tmp_path / "journal"
    args = (drop_space(), [objective()], removal_loss)
    run_study(*args, SearchSettings("random", 2, rungs=(1,)), path)
    with worker() as signature:
        elsewhere = signature | {"machine": "other", "host": "other"}
    _, trial = foreign_trial(open_storage(path), elsewhere)
    settings = SearchSettings("random", 4, rungs=(1,), stale_after=1)
    result = run_study(*args, settings, path)
    assert result.counts() == {"complete": 4, "lost": 1}
    lost = result.history[trial.number]
    assert (lost.state, lost.error) == ("lost", "its worker died")
    assert f"the worker of trial {trial.number} died" in caplog.text


def test_a_worker_elsewhere_that_lives_is_waited_for(tmp_path):
    path = tmp_path / "journal"
    args = (drop_space(), [objective()], removal_loss)
    run_study(*args, SearchSettings("random", 2, rungs=(1,)), path)
    with worker() as signature:
        elsewhere = signature | {"machine": "other", "host": "other"}
    trials, trial = foreign_trial(open_storage(path), elsewhere)

    def live():
        for beat in range(4):
            threading.Event().wait(0.7)
            trials.set(trial, "beat", beat + 1)
        trials.report(trial, 0, Reached((3.0,), 1.4, (16,), 2.0))
        trials.complete(trial, [3.0])

    thread = threading.Thread(target=live)
    thread.start()
    settings = SearchSettings("random", 3, rungs=(1,), stale_after=1)
    result = run_study(*args, settings, path)
    thread.join()
    assert result.counts() == {"complete": 3}
    assert result.history[2].values == (3.0,) and result.history[2].worker.startswith("other:")


def test_a_worker_that_was_taken_for_dead_drops_its_trial(tmp_path, caplog):
    path = tmp_path / "journal"
    victims = []

    def evaluate(candidate, name, items):
        if candidate.removed and len(victims) < 2:
            storage = open_storage(path)
            trials = Trials(storage, "search", [objective()], _key_of(storage))
            running = next(past for past in trials.past() if past.state == "running")
            trials.lose(running, "its worker died")
            victims.append(running.number)
            if len(victims) == 2:
                raise RuntimeError("late")
        return removal_loss(candidate, name, items)

    settings = SearchSettings("random", 4, rungs=(1 / 4, 1))
    result = run_study(drop_space(), [objective()], evaluate, settings, path)
    assert victims == [0, 1]
    counts = result.counts()
    assert counts.pop("lost") == 2 and sum(counts.values()) == 4 and "failed" not in counts
    assert "trial 0 was ended by another worker" in caplog.text
