"""The stage cache: what runs again and what does not."""

import pytest

from jprune.core.errors import InputError
from jprune.core.files import read_json, write_json, write_text
from jprune.pipeline.lazy import Lazy
from jprune.pipeline.stages import Stage, fingerprints, plan, record_path, run_stages
from tests.pipeline.runs import job


def statuses(states):
    return [state.status for state in states]


def test_runs_in_order_then_never_again(tmp_path):
    log = []
    states = run_stages(tmp_path, job(tmp_path, log))
    assert log == ["a", "b", "c"]
    assert statuses(states) == ["done"] * 3
    assert [state.value["total"] for state in states] == [1, 3, 6]
    again = run_stages(tmp_path, job(tmp_path, log))
    assert log == ["a", "b", "c"]
    assert statuses(again) == ["cached"] * 3
    assert [state.value for state in again] == [state.value for state in states]
    assert [state.seconds for state in again] == [state.seconds for state in states]


@pytest.mark.parametrize(
    ("change", "ran", "total"),
    [({"first": 5}, "abc", 10), ({"second": 5}, "bc", 9), ({"third": 5}, "c", 8)],
)
def test_a_changed_key_reruns_what_depends_on_it(tmp_path, change, ran, total):
    run_stages(tmp_path, job(tmp_path, []))
    log = []
    states = run_stages(tmp_path, job(tmp_path, log, **change))
    assert "".join(log) == ran
    assert states[-1].value == {"total": total}
    assert read_json(tmp_path / "c.json") == total


def test_plan_names_the_key_that_made_a_stage_stale(tmp_path):
    assert [s.reasons for s in plan(tmp_path, job(tmp_path, []))] == [("not run yet",)] * 3
    assert not list(tmp_path.iterdir())
    run_stages(tmp_path, job(tmp_path, []))
    log = []
    a, b, c = plan(tmp_path, job(tmp_path, log, second=5))
    assert (a.status, a.reasons) == ("cached", ())
    assert (b.status, b.reasons) == ("pending", ("key was 2, is 5",))
    assert (c.status, c.reasons) == ("pending", ("b changed",))
    assert log == []


def test_a_key_that_comes_or_goes_makes_stale(tmp_path):
    def one(keys):
        return [Stage("a", keys, lambda values: None)]

    run_stages(tmp_path, one({"x": None}))
    assert plan(tmp_path, one({"x": None}))[0].status == "cached"
    assert plan(tmp_path, one({"x": None, "y": 1}))[0].reasons == ("y was None, is 1",)
    assert plan(tmp_path, one({}))[0].status == "pending"


def test_missing_and_changed_outputs_run_again(tmp_path):
    run_stages(tmp_path, job(tmp_path, []))
    (tmp_path / "b.json").unlink()
    assert plan(tmp_path, job(tmp_path, []))[1].reasons == ("b.json is missing",)
    log = []
    run_stages(tmp_path, job(tmp_path, log))
    assert log == ["b"]
    write_json(tmp_path / "b.json", 7)  # the same size
    assert plan(tmp_path, job(tmp_path, []))[1].reasons == ("b.json was changed",)


def test_a_stage_must_write_what_it_declares(tmp_path):
    with pytest.raises(ValueError, match="nowhere.txt"):
        run_stages(tmp_path, [Stage("a", {}, lambda values: None, (), ("nowhere.txt",))])
    assert plan(tmp_path, [Stage("a", {}, lambda values: None)])[0].status == "pending"


def test_outputs_of_another_setting_are_removed(tmp_path):
    def one(name):
        def run(values):
            write_text(tmp_path / name / "x.txt", name)
            write_text(tmp_path / f"{name}.txt", name)

        return [Stage("a", {"name": name}, run, (), (name, f"{name}.txt"))]

    run_stages(tmp_path, one("old"))
    write_text(tmp_path / "mine.txt", "not jprune's")
    run_stages(tmp_path, one("new"))
    left = {p.name for p in tmp_path.iterdir() if p.name not in (".lock", "stages")}
    assert left == {"new", "new.txt", "mine.txt", "old"}
    assert not list((tmp_path / "old").iterdir())


def test_stages_that_are_no_longer_in_the_job_leave_nothing(tmp_path):
    def write(name):
        return lambda values: write_text(tmp_path / "scores" / name, name)

    def stage(name, *files):
        run = lambda values: [write(file)(values) for file in files]  # noqa: E731
        return Stage(name, {}, run, (), tuple(f"scores/{file}" for file in files))

    run_stages(tmp_path, [stage("a", "x"), stage("b", "y", "z"), stage("c", "w")])
    write_text(tmp_path / "scores" / "mine", "not jprune's")
    log = []
    plan(tmp_path, [stage("a", "x")])
    assert record_path(tmp_path, "b").exists()  # only a run removes
    kept = [stage("a", "x"), stage("d", "z")]
    states = run_stages(tmp_path, kept, until="a", begin=lambda: log.append("begun"))
    assert statuses(states) == ["cached", "pending"] and log == ["begun"]
    assert {p.name for p in (tmp_path / "scores").iterdir()} == {"x", "z", "mine"}
    assert {p.name for p in (tmp_path / "stages").iterdir()} == {"a.json"}


def test_a_refused_job_removes_nothing(tmp_path):
    run_stages(tmp_path, job(tmp_path, []))

    def refuse():
        raise InputError("another model")

    with pytest.raises(InputError):
        run_stages(tmp_path, [], begin=refuse)
    assert statuses(plan(tmp_path, job(tmp_path, []))) == ["cached"] * 3


def test_another_version_of_jprune_computes_again(tmp_path, monkeypatch):
    run_stages(tmp_path, job(tmp_path, []))
    version = read_json(record_path(tmp_path, "a"))["jprune"]
    monkeypatch.setattr("jprune.pipeline.stages.__version__", "99.0")
    first, *_ = plan(tmp_path, job(tmp_path, []))
    assert first.reasons == (f"made by jprune {version}",)
    log = []
    run_stages(tmp_path, job(tmp_path, log))
    assert log == ["a", "b", "c"]


def test_a_later_stage_may_write_into_the_folder_of_an_earlier_one(tmp_path):
    log = []

    def export(values):
        log.append("export")
        for child in (tmp_path / "model").glob("*"):
            child.unlink()
        write_text(tmp_path / "model" / "weights", "w")
        write_text(tmp_path / "model" / "README.md", "draft")

    def card(values):
        log.append("card")
        write_text(tmp_path / "model" / "README.md", "card")

    stages = [
        Stage("export", {}, export, (), ("model",)),
        Stage("card", {}, card, ("export",), ("model/README.md",)),
    ]
    run_stages(tmp_path, stages)
    assert statuses(run_stages(tmp_path, stages)) == ["cached", "cached"]
    (tmp_path / "model" / "weights").unlink()
    run_stages(tmp_path, stages)
    assert log == ["export", "card"] * 2
    assert (tmp_path / "model" / "README.md").read_text() == "card"


def test_going_back_to_a_setting_does_not_trust_outputs_of_the_other(tmp_path, monkeypatch):
    monkeypatch.setattr("jprune.pipeline.records.MAX_HASHED_BYTES", 0)  # sizes only

    def one(key, fail=False):
        def run(values):
            write_text(tmp_path / "x.txt", key)
            if fail:
                raise RuntimeError("died")
            return key

        return [Stage("a", {"key": key}, run, (), ("x.txt",))]

    run_stages(tmp_path, one("1"))
    with pytest.raises(RuntimeError):
        run_stages(tmp_path, one("2", fail=True))
    assert (tmp_path / "x.txt").read_text() == "2"
    run_stages(tmp_path, one("1"))
    assert (tmp_path / "x.txt").read_text() == "1"


def test_until_stops_after_a_stage(tmp_path):
    log = []
    states = run_stages(tmp_path, job(tmp_path, log), until="b")
    assert log == ["a", "b"]
    assert statuses(states) == ["done", "done", "pending"]
    with pytest.raises(InputError, match="unknown stage 'bb'; did you mean 'b'"):
        run_stages(tmp_path, job(tmp_path, log), until="bb")


def test_after_is_told_of_every_change(tmp_path):
    seen = []
    run_stages(tmp_path, job(tmp_path, [])[:2], after=lambda states: seen.append(statuses(states)))
    assert seen[0] == ["pending", "pending"]
    assert ["running", "pending"] in seen
    assert ["done", "running"] in seen
    assert seen[-1] == ["done", "done"]


def test_a_failing_stage_keeps_the_earlier_ones(tmp_path):
    log, seen = [], []
    stages = job(tmp_path, log)

    def fail(values):
        raise InputError("too few windows")

    broken = [stages[0], Stage("b", {"key": 2}, fail, ("a",), ()), stages[2]]
    with pytest.raises(InputError, match="too few windows"):
        run_stages(tmp_path, broken, after=lambda states: seen.append(statuses(states)))
    assert seen[-1] == ["done", "failed", "pending"]
    run_stages(tmp_path, stages)
    assert log == ["a", "b", "c"]


def test_a_corrupt_record_is_no_record(tmp_path):
    run_stages(tmp_path, job(tmp_path, []))
    record_path(tmp_path, "b").write_text("{")
    assert statuses(plan(tmp_path, job(tmp_path, []))) == ["cached", "pending", "cached"]


def test_fingerprints_refuse_unknown_needs():
    with pytest.raises(ValueError, match="'b'"):
        fingerprints([Stage("b", {}, lambda values: None, ("a",))])


def test_lazy_makes_its_value_once_and_late():
    made = []
    value = Lazy(lambda: made.append(1) or len(made))
    assert made == []
    assert not value.is_made
    assert (value(), value()) == (1, 1)
    assert value.is_made
    value.clear()
    assert not value.is_made and value() == 2


def test_values_are_json_whether_fresh_or_cached(tmp_path):
    stages = [Stage("a", {}, lambda values: {"pair": (1, 2), "nan": float("nan")})]
    assert run_stages(tmp_path, stages)[0].value == {"pair": [1, 2], "nan": None}
    assert run_stages(tmp_path, stages)[0].value == {"pair": [1, 2], "nan": None}
