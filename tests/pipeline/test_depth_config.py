"""Configs of the depth pruning job: criteria of all kinds, and what is refused."""

import sys

import numpy as np
import pytest

from jprune.checkpoints import load
from jprune.core.errors import InputError
from jprune.core.files import read_json
from jprune.pipeline.job import run_config
from jprune.transforms import drop_blocks
from tests.pipeline.runs import eval_ids, ppl, ran


def test_angular_removes_contiguous_blocks_at_every_number(tmp_path, config, model, text):
    record = run_config(config(criterion="angular", remove=2, curve_seeds=0), tmp_path)
    first, second = (unit["layer"] for unit in record["removed"])
    assert second == first + 1
    series = {one["criterion"]: one for one in record["figures"]["curve"]["series"]}
    assert series["angular"]["removed"] == [0, 1, 2, 3] and "random" not in series
    llama, ids = load(model), eval_ids(model, text, 2)
    runs = [ppl(drop_blocks(range(s, s + 2))(llama), ids) for s in range(3)]
    assert np.isclose(runs, series["angular"]["ppl"][2], rtol=1e-5).any()


def test_criteria_without_data_need_none(tmp_path, config):
    values = config(criterion="magnitude", calibration=None, protect="0")
    record = run_config(values, tmp_path)
    assert "calibration" not in [stage["name"] for stage in record["stages"]]
    assert record["removed"][0]["layer"] != 0


def test_compared_criteria_are_scored_and_drawn(tmp_path, config):
    record = run_config(config(compare=("greedy", "influence", "perplexity")), tmp_path)
    names = {one["criterion"] for one in record["figures"]["curve"]["series"]}
    assert names == {"perplexity", "greedy", "influence", "last", "random"}
    again = run_config(config(compare=("greedy",)), tmp_path)
    assert ran(again) == ["curve", "report"]
    files = {path.name for path in (tmp_path / "scores").iterdir()}
    assert files == {f"{name}.json" for name in ("perplexity", "greedy", "last", "random")}
    page = (tmp_path / "report.html").read_text()
    assert "greedy" in page and "influence" not in page


def own_criterion(llama, ids, granularity):
    return [3.0, 1.0, 2.0, 4.0]


def test_a_criterion_of_the_users_own(tmp_path, config):
    name = f"{__name__}:own_criterion"
    sys.modules.setdefault(__name__, sys.modules[own_criterion.__module__])
    record = run_config(config(criterion=name, remove=2), tmp_path)
    assert [unit["layer"] for unit in record["removed"]] == [1, 2]


def test_an_edited_criterion_of_the_users_own_is_run_again(tmp_path, config, monkeypatch):
    file = tmp_path / "criterion_of_test_depth.py"
    code = "def mine(llama, ids, granularity):\n    return [{}]\n"
    file.write_text(code.format("4, 1, 2, 3"))
    monkeypatch.syspath_prepend(tmp_path)
    values = config(criterion="criterion_of_test_depth:mine", curve_windows=0)
    try:
        assert run_config(values, tmp_path / "W")["removed"][0]["layer"] == 1
        assert ran(run_config(values, tmp_path / "W")) == []
        file.write_text(code.format("4, 3, 2.25, 5.125"))
        sys.modules.pop("criterion_of_test_depth")  # as a new process does
        again = run_config(values, tmp_path / "W")
        assert ran(again)[0] == "score" and again["removed"][0]["layer"] == 2
    finally:
        sys.modules.pop("criterion_of_test_depth", None)


def test_no_curve_and_nothing_removed(tmp_path, config):
    record = run_config(config(remove=0, curve_windows=0), tmp_path)
    assert "curve" not in record["figures"] and record["removed"] == []
    assert record["figures"]["after"] == record["figures"]["before"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"remov": 2}, "unknown config key 'remov'; did you mean 'remove'"),
        ({"criterion": "taylr"}, "unknown criterion 'taylr'; did you mean 'taylor'"),
        ({"compare": ("gredy",)}, "did you mean 'greedy'"),
        ({"granularity": "blocks"}, "did you mean 'block'"),
        ({"protocol": "shorten"}, "did you mean 'shortened'"),
        ({"options": {"reduce": "fisher"}}, "the criterion perplexity has no options"),
        ({"criterion": "taylor", "options": {"redce": 1}}, "did you mean 'reduce'"),
        ({"criterion": "angular", "granularity": "mlp"}, "contiguous blocks"),
        ({"model": None}, "--config.model=FOLDER"),
        ({"model": "/nowhere/at/all"}, "no such checkpoint: /nowhere/at/all"),
        ({"eval": ()}, "--config.eval=SOURCE"),
        ({"eval": ("/nowhere.txt",)}, "no such file: /nowhere.txt"),
        ({"calibration": None}, "--config.calibration=SOURCE"),
        ({"calibration": "wikitxt2"}, "did you mean 'wikitext2'"),
        ({"remove": -1}, "'remove' takes an integer from 0 on, not -1"),
        ({"eval_windows": 0}, "'eval_windows' takes an integer from 1 on, not 0"),
        ({"dtype": "float31"}, "did you mean 'float32'"),
        ({"job": "width"}, "unknown job 'width'"),
        ({"remove": 4}, "removing 4 of 4 units would leave no model"),
        ({"remove": 3, "protect": "0-1"}, "cannot remove 3 units: only 2 of 4 can go"),
        ({"protect": "7"}, "outside this model"),
    ],
)
def test_bad_configs_leave_nothing_behind(tmp_path, config, change, message):
    with pytest.raises(InputError, match=message):
        run_config(config(**change), tmp_path / "W")
    assert not (tmp_path / "W").exists()


def test_what_only_the_data_can_tell(tmp_path, config):
    with pytest.raises(InputError, match="too few windows"):
        run_config(config(num_windows=10**6), tmp_path / "W")
    statuses = {s["name"]: s["status"] for s in read_json(tmp_path / "W" / "run.json")["stages"]}
    assert (statuses["model"], statuses["calibration"]) == ("done", "failed")
