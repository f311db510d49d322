"""Studies: rungs, objectives, copies, budgets, and what is refused."""

import numpy as np
import pytest

from jprune.core.errors import InputError
from jprune.search import (
    Candidate,
    Mix,
    Objective,
    Rungs,
    SearchSettings,
    run_study,
)
from jprune.search.storage import open_storage
from tests.search.landscapes import (
    COSTS,
    EVERYTHING,
    Recorder,
    drop_space,
    layers,
    objective,
    removal_loss,
    single,
    stitch_space,
)


def test_only_new_items_are_evaluated_and_losers_end_early():
    evaluate = Recorder()
    objectives = [Objective("code", 32), Objective("math", 10)]
    settings = SearchSettings("random", 24, rungs=(1 / 8, 1 / 2, 1), eta=2, seed=1)
    result = run_study(drop_space(), objectives, evaluate, settings)
    rungs = Rungs.of(objectives, (1 / 8, 1 / 2, 1), 1)
    assert [len(x) for x in evaluate.items(Candidate(), "code")] == [32]
    for row in result.history:
        for column, goal in enumerate(objectives):
            asked = evaluate.items(row.candidate, goal.name)
            expected = [rungs.new_items(rung)[column].tolist() for rung in range(row.rung)]
            assert [list(items) for items in asked] == expected
    # Replayed by hand: of m at a rung, the best max(1, m // 2) go on.
    scores: list[list[float]] = [[], [], []]
    for row in result.history:
        for rung in range(3):
            ratios = []
            for column, goal in enumerate(objectives):
                items = rungs.items(rung)[column]
                own, base = (
                    removal_loss(c, goal.name, items) for c in (row.candidate, Candidate())
                )
                ratios.append(own.mean() / base.mean())
            score = sum(ratios) / 2
            scores[rung].append(score)
            assert row.rung >= rung + 1
            if rung < 2 and sorted(scores[rung]).index(score) >= max(1, len(scores[rung]) // 2):
                assert (row.state, row.rung) == ("pruned", rung + 1)
                break
        else:
            assert (row.state, row.rung) == ("complete", 3)
        assert row.score == pytest.approx(score)
    assert {row.state for row in result.history} == {"complete", "pruned"}


def test_rung_values_are_attributes_and_states_are_told():
    storage = open_storage(None)
    settings = SearchSettings("random", 12, rungs=(1 / 4, 1), seed=2)
    result = run_study(drop_space(), [objective()], removal_loss, settings, storage)
    trials = storage.get_all_trials(0)
    items = Rungs.of([objective()], (1 / 4, 1), 2).items(0)[0]
    for trial, row in zip(trials, result.history, strict=True):
        attrs = trial.user_attrs
        low = removal_loss(row.candidate, "", items).mean()
        assert attrs["rung 0"]["values"] == pytest.approx([low])
        assert attrs["rung 0"]["score"] == pytest.approx(
            low / removal_loss(Candidate(), "", items).mean()
        )
        assert attrs["rung 0"]["items"] == (4,)
        assert attrs["candidate"] == row.candidate.to_json()
        assert attrs["signature"].keys() >= {"host", "pid", "time", "worker"}
        assert trial.state.name == {"complete": "COMPLETE", "pruned": "PRUNED"}[row.state]
        assert ("rung 1" in attrs) == (row.state == "complete")
        if row.state == "complete":
            full = removal_loss(row.candidate, "", np.arange(16)).mean()
            assert trial.value == pytest.approx(full) == row.values[0]


def test_several_objectives_and_a_metric():
    def evaluate(candidate, name, items):
        if name == "task":  # right on item i if the layers gone are few enough
            return items >= 2 * len(layers(candidate) & {0, 1, 2, 3, 4, 5})
        return removal_loss(candidate, name, items)

    goals = [objective("text"), objective("task", maximize=True)]
    settings = SearchSettings("random", 40, rungs=(1,), seed=3)
    result = run_study(drop_space(), goals, evaluate, settings)
    assert result.base == (pytest.approx(removal_loss(Candidate(), "", np.arange(16)).mean()), 1.0)
    points = {}
    for row in result.history:
        loss = 2 + COSTS[list(layers(row.candidate))].sum() + 0.5 * np.cos(np.arange(16)).mean()
        right = 1 - 2 * len(layers(row.candidate) & {0, 1, 2, 3, 4, 5}) / 16
        assert row.values == pytest.approx((loss, right))
        points[row.number] = (loss, right)
    front = [
        number
        for number, (loss, right) in points.items()
        if not any(
            (x <= loss and y >= right) and (x < loss - 1e-9 or y > right)
            for x, y in points.values()
        )
    ]
    assert {row.number for row in result.front} == {*front} and len(front) > 1
    means = {n: (points[n][0] / result.base[0] + 1 / points[n][1]) / 2 for n in front}
    assert result.incumbent.number == min(means, key=means.get)
    assert result.incumbent.score == pytest.approx(min(means.values()))


def test_the_base_s_values_may_be_given_and_are_kept(tmp_path):
    evaluate = Recorder()
    given = {"text": np.full(16, 4.0)}
    args = (drop_space(), [objective()], evaluate)
    result = run_study(*args, EVERYTHING, tmp_path / "journal", base=given)
    assert result.base == (4.0,) and not evaluate.items(Candidate(), "text")
    assert result.incumbent.ratios[0] == pytest.approx(result.incumbent.values[0] / 4)
    more = SearchSettings("random", 7, rungs=(1,))
    assert run_study(*args, more, tmp_path / "journal").base == (4.0,)
    assert not evaluate.items(Candidate(), "text")


def test_copies_take_over_values_and_states():
    evaluate = Recorder()
    good, bad = single(3, 6, 9), single(0, 5, 7)
    settings = SearchSettings("random", 5, rungs=(1 / 4, 1))
    args = (drop_space(), [objective()], evaluate, settings)
    result = run_study(*args, warm_starts=[good, bad, bad, good])
    rows = result.history
    assert [row.copy_of for row in rows[:4]] == [None, None, 1, 0]
    assert [row.state for row in rows[:4]] == ["complete", "pruned", "pruned", "complete"]
    assert rows[2].values == rows[1].values and rows[3].values == rows[0].values
    assert len(evaluate.items(good, "text")) == 2 and len(evaluate.items(bad, "text")) == 1
    assert result.incumbent.number == 0


def test_running_again_adds_trials_up_to_the_budget(tmp_path):
    evaluate = Recorder()
    for trials, total in ((3, 3), (3, 3), (8, 8), (5, 8)):
        settings = SearchSettings("evolution", trials, population=4)
        result = run_study(drop_space(), [objective()], evaluate, settings, tmp_path / "journal")
        assert len(result.history) == len(result.curve) == total
    assert len({who for who, _, _ in evaluate.calls}) == 9


def test_half_a_line_in_the_journal_does_no_harm(tmp_path):
    path = tmp_path / "journal"
    args = (drop_space(), [objective()], removal_loss)
    run_study(*args, SearchSettings("random", 2, rungs=(1,)), path)
    with path.open("ab") as file:
        file.write(b'{"op_code":4,"wor')
    result = run_study(*args, SearchSettings("random", 4, rungs=(1,)), path)
    assert result.counts() == {"complete": 4}


def test_studies_of_other_searches_are_refused(tmp_path):
    path = tmp_path / "journal"
    settings = SearchSettings("random", 2, rungs=(1,))

    def search(space=drop_space(), goals=("text",), chosen=settings, **more):  # noqa: B008
        goals = [objective(goal) for goal in goals]
        return run_study(space, goals, removal_loss, chosen, path, **more)

    search(identity={"model": "a"})
    for other, message in [
        ({"space": drop_space(2)}, "is another search: space: remove was 3, is 2; give another"),
        ({"goals": ["text", "code"]}, "another search: objectives: code was None, is \\[16, 'min'"),
        (
            {"chosen": SearchSettings("evolution", 2, rungs=(1,))},
            "settings: sampler was random, is evolution",
        ),
        ({"warm_starts": [single(0, 1, 2)]}, "warm_starts was \\[\\], is \\[\\{'removed'"),
        ({"identity": {"model": "b"}}, "identity: model was a, is b"),
    ]:
        with pytest.raises(InputError, match=message):
            search(**{"identity": {"model": "a"}} | other)
    search(identity={"model": "a"}, name="another")
    more = SearchSettings("random", 3, rungs=(1,), stale_after=9, give_up_after=2)
    assert len(search(identity={"model": "a"}, chosen=more).history) == 3


def test_a_study_of_somebody_else_is_refused():
    storage = open_storage(None)
    import optuna

    study = optuna.create_study(storage=storage, study_name="search")
    study.ask()
    with pytest.raises(InputError, match="has a study 'search' that is no search of jprune"):
        run_study(drop_space(), [objective()], removal_loss, EVERYTHING, storage)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"objectives": []}, "a search needs at least one objective"),
        ({"warm_starts": [single(0)]}, "the candidate removes 1 units; all of this search"),
        ({"base": {"code": np.ones(16)}}, "the base's values lack those of text"),
        ({"base": {"text": np.ones(3)}}, "evaluating 16 items of text gave an array of shape"),
        ({"base": {"text": -np.ones(16)}}, "the base has an NLL of -1 on text"),
        (
            {"space": stitch_space(), "warm_starts": [Candidate((), (Mix(0, (5,)),))]},
            "removes 0 units",
        ),
    ],
)
def test_errors(more, message):
    args = {"space": drop_space(), "objectives": [objective()], "evaluate": removal_loss}
    with pytest.raises(InputError, match=message):
        run_study(**args | {"settings": EVERYTHING} | more)
