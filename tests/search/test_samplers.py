"""Samplers find known optima; what they propose depends on the trials so far and nothing else."""

import numpy as np
import pytest

from jprune.core.errors import InputError
from jprune.search import Candidate, SearchSettings, StitchSpace, run_study, warm_starts
from jprune.search.greedy import greedy_trials
from tests.search.landscapes import (
    COSTS,
    GAINS,
    best_removal,
    drop_space,
    layers,
    objective,
    removal_loss,
    stitch_loss,
    stitch_space,
)

TRIALS, SEEDS = 45, (0, 1, 2)


def losses(space, loss, sampler, trials=TRIALS, **settings):
    """The lowest loss that a search finds with each seed."""
    found = []
    for seed in SEEDS:
        chosen = SearchSettings(sampler, trials, seed=seed, **settings)
        result = run_study(space, [objective()], loss, chosen)
        assert len(result.history) == trials
        found.append(result.incumbent.values[0])
    return np.array(found)


@pytest.fixture(scope="module")
def random_removals():
    return losses(drop_space(4), removal_loss, "random")


@pytest.fixture(scope="module")
def random_stitches():
    return losses(stitch_space(), stitch_loss, "random")


def test_random_does_not_find_the_optimum(random_removals):
    best = removal_loss(removal(best_removal(4)), "", np.arange(16)).mean()
    assert (random_removals > best + 0.01).all()


def removal(chosen):
    return Candidate(tuple(unit for unit in drop_space().units if unit.layer in chosen))


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "evolution"])
def test_removals_are_better_than_random_ones(sampler, random_removals):
    found = losses(drop_space(4), removal_loss, sampler, population=8)
    assert found.mean() < random_removals.mean() - 0.05


@pytest.mark.parametrize("sampler", ["nsga2", "evolution"])
def test_the_best_removal_is_found(sampler):
    found = losses(drop_space(4), removal_loss, sampler, trials=90, population=8)
    best = removal_loss(removal(best_removal(4)), "", np.arange(16)).mean()
    np.testing.assert_allclose(found, best, rtol=1e-12)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "evolution"])
def test_stitches_are_better_than_random_ones(sampler, random_stitches):
    found = losses(stitch_space(), stitch_loss, sampler, population=8)
    assert found.mean() < random_stitches.mean() - 0.05


def test_evolution_finds_the_best_stitch():
    space = stitch_space()
    settings = SearchSettings("evolution", 300, population=8)
    result = run_study(space, [objective()], stitch_loss, settings)
    # Layers 3 and 1 cost 0.2 and 0.31 but gain 0.1 if kept; only these four kept ones gain more.
    mixes = {mix.layer: mix for mix in result.candidate.mixes}
    kept = {0, 2, 4, 5} & {*space.kept_layers(result.candidate.removed)}
    best = {0: (0,), 2: (0, 1), 4: None, 5: (0, 1)}
    for layer in kept:
        mix = mixes.get(layer)
        assert (mix.variants if mix else None) == best[layer]
        if best[layer] == (0, 1):
            assert mix.factor == pytest.approx(0.6, abs=0.15)
    gone = sorted(COSTS[:6] + np.maximum(0, best_gains()))[:2]
    assert sum(
        COSTS[layer] + max(0, best_gains()[layer]) for layer in layers(result.candidate)
    ) == (pytest.approx(sum(gone)))


def best_gains():
    """What each layer gains at best: nothing, one variant, or both at factor 0.6."""
    return np.max([np.zeros(6), GAINS[:, 0], GAINS[:, 1], GAINS.sum(axis=1)], axis=0)


def test_greedy_is_exact_where_costs_add_up():
    space = drop_space(3)
    settings = SearchSettings("greedy", 100, eta=3)
    result = run_study(space, [objective()], removal_loss, settings)
    assert layers(result.candidate) == best_removal(3)
    assert len(result.history) == greedy_trials(space) == 12 + 11 + 10
    sizes = [len(row.candidate.removed) for row in result.history]
    assert sizes == [1] * 12 + [2] * 11 + [3] * 10
    order = np.argsort(COSTS)
    for row, size in zip(result.history, sizes, strict=True):
        assert layers(row.candidate) >= {*order[: size - 1].tolist()}
        assert row.in_space == (size == 3)


def test_greedy_after_warm_starts():
    starts = warm_starts(drop_space(2), windows=3)
    settings = SearchSettings("greedy", greedy_trials(drop_space(2)) + len(starts))
    result = run_study(drop_space(2), [objective()], removal_loss, settings, warm_starts=starts)
    assert [row.candidate for row in result.history[: len(starts)]] == [*starts]
    assert layers(result.candidate) == best_removal(2)


def test_greedy_of_a_stitch_keeps_the_base_s_layers():
    settings = SearchSettings("greedy", 11)
    result = run_study(stitch_space(2), [objective()], removal_loss, settings)
    assert layers(result.candidate) == {3, 1} and not result.candidate.mixes


def test_greedy_where_everything_fails():
    def evaluate(candidate, name, items):
        if len(candidate.removed) == 2:
            raise ValueError("no room")
        return removal_loss(candidate, name, items)

    with pytest.raises(InputError, match="every way to remove 2 units failed: ValueError: no room"):
        run_study(drop_space(3), [objective()], evaluate, SearchSettings("greedy", 33))


@pytest.mark.parametrize(
    ("space", "trials", "message"),
    [
        (drop_space(3), 32, "greedy needs 33 trials to remove 3 of 12 units, and there are 32"),
        (StitchSpace(4, 0, ("a",)), 9, "greedy removes units, but this search removes none"),
    ],
)
def test_greedy_errors(space, trials, message):
    with pytest.raises(InputError, match=message):
        run_study(space, [objective()], removal_loss, SearchSettings("greedy", trials))


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "random", "evolution"])
@pytest.mark.parametrize("objectives", [["text"], ["text", "code"]])
def test_a_search_that_is_resumed_proposes_the_same(tmp_path, sampler, objectives):
    def search(storage, trials):
        settings = SearchSettings(sampler, trials, population=4, startup=4, seed=5)
        goals = [objective(name) for name in objectives]
        starts = warm_starts(stitch_space(), windows=1)[:3]
        return run_study(stitch_space(), goals, stitch_loss, settings, storage, warm_starts=starts)

    through = search(None, 18)
    for trials in (5, 11, 18):
        resumed = search(tmp_path / "journal", trials)
    rows = [
        [(row.number, row.state, row.candidate, row.values) for row in result.history]
        for result in (through, resumed)
    ]
    assert rows[0] == rows[1]
    assert resumed.incumbent.values == through.incumbent.values
    assert len({row.candidate for row in through.history}) > 12


def test_seeds_make_other_searches():
    proposals = set()
    for seed in range(3):
        settings = SearchSettings("random", 3, seed=seed)
        result = run_study(drop_space(), [objective()], removal_loss, settings)
        proposals.add(tuple(row.candidate for row in result.history))
    assert len(proposals) == 3


def test_warm_starts_teach_tpe_and_nsga2():
    # All parameters of a warm start are on record, as if they had been suggested.
    starts = warm_starts(stitch_space(), windows=1)
    for sampler, number in (("tpe", None), ("nsga2", 6 + 6 + 6)):
        settings = SearchSettings(sampler, len(starts))
        storage = _storage()
        run_study(
            *(stitch_space(), [objective()], stitch_loss, settings, storage), warm_starts=starts
        )
        trials = storage.get_all_trials(0)
        assert [t.user_attrs["candidate"] for t in trials] == [s.to_json() for s in starts]
        assert all(trial.params["priority of block 0"] in (0.25, 0.75) for trial in trials)
        if number:
            assert {len(trial.params) for trial in trials} == {number}
            assert {trial.system_attrs["NSGAIISampler:generation"] for trial in trials} == {0}


def _storage():
    from jprune.search.storage import open_storage

    return open_storage(None)


def test_a_space_that_is_used_up():
    # 12 candidates: all are found, then they come again as copies.
    calls = []

    def evaluate(candidate, name, items):
        calls.append(candidate)
        return removal_loss(candidate, name, items)

    for sampler in ("evolution", "tpe"):
        calls.clear()
        settings = SearchSettings(sampler, 20, rungs=(1,), population=4)
        result = run_study(drop_space(1), [objective()], evaluate, settings)
        assert len(calls) == len(set(calls)) == 13  # with the base
        assert len(result.history) == 20
        copies = [row for row in result.history if row.copy_of is not None]
        assert len(copies) == 8
        originals = {row.number: row for row in result.history if row.copy_of is None}
        for row in copies:
            origin = originals[row.copy_of]
            assert (row.candidate, row.values) == (origin.candidate, origin.values)
            assert row.seconds == 0
