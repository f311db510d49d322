import pytest

from jprune.core.errors import InputError
from jprune.report.reading import parse_scores, read_run
from tests.report.conftest import perplexity_scores


def test_reads_what_the_files_say(make, files):
    run = read_run(make(files))
    assert run.removed == ((1, "block"), (3, "block"))
    assert run.pair("parameters") == (16_200_000, 13_400_000)
    assert run.phases == ("before", "after")
    assert [e.ppl for e in run.evaluations] == [65.174, 55.44, 75.754, 61.23]
    assert run.exported and run.recipe["steps"][0]["op"] == "drop_blocks"
    assert run.chosen.criterion == "perplexity"
    assert run.chosen.order == (1, 3, 2, 4, 5)


def test_phases_are_in_the_order_of_the_run(make, files):
    figures = files["run.json"]["figures"]
    files["run.json"]["figures"] = {
        "after": figures["after"], "pruned": figures["before"], "before": figures["before"],
    }  # fmt: skip
    assert read_run(make(files)).phases == ("before", "pruned", "after")


def test_the_configured_criterion_is_the_chosen_one(make, files):
    files["scores/taylor.json"] = perplexity_scores() | {"criterion": "taylor"}
    files["scores/last.json"] = perplexity_scores() | {"criterion": "last"}
    files["config.json"] = {"config": {"criterion": "taylor"}}
    assert read_run(make(files)).chosen.name == "taylor"
    files["config.json"] = {}
    assert read_run(make(files)).chosen.name == "perplexity"  # never a baseline


def test_protected_layers_cover_all_their_sublayers():
    units = [{"layer": i, "part": p} for i in range(3) for p in ("attention", "mlp")]
    scores = parse_scores(
        "s",
        {"criterion": "taylor", "granularity": "sublayer", "units": units, "scores": [1] * 6,
         "protected": [2], "order": [0, 3, {"layer": 0, "part": "mlp"}]},
    )  # fmt: skip
    assert scores.protected == {4, 5}
    assert scores.order == (0, 3, 1)
    assert scores.is_removed(3, frozenset({(1, "mlp")}))
    assert not scores.is_removed(2, frozenset({(1, "mlp")}))
    assert scores.is_removed(2, frozenset({(1, "block")}))


def test_no_such_workdir(tmp_path):
    with pytest.raises(InputError, match=r"no workdir at .*nowhere: give the folder that a"):
        read_run(tmp_path / "nowhere")


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(InputError, match=r"has no run\.json: it is not a workdir of `jprune run`"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("run.json", "[1]", "run.json should hold a JSON object, not list"),
        ("run.json", '{"removed": ["x"]}', "'x' is not a unit like"),
        ("run.json", '{"removed": [{"layer": 1, "part": "nose"}]}', "parts: block, attention, mlp"),
        ("run.json", '{"figures": {"after": {"perplexity": [{"ppl": "high"}]}}}', "list of num"),
        ("run.json", '{"stages"', "is not valid JSON"),
        ("config.json", '"x"', "config.json should hold a JSON object, not str"),
        ("scores/a.json", "{}", "a.json has no 'criterion': it is not the JSON of `jprune score`"),
        (
            "scores/a.json",
            '{"criterion": "t", "scores": [1, 2], "delta_nll": [1]}',
            "a.json: 1 delta_nll for 2 units",
        ),
        (
            "scores/a.json",
            '{"criterion": "t", "scores": [1, 2], "order": [2]}',
            "a.json: 2 is none of the 2 units scored",
        ),
        ("scores/a.json", '{"criterion": "t", "scores": ["x"]}', "should be a list of numbers"),
    ],
)
def test_files_that_are_not_what_they_should_be(make, files, name, content, message):
    with pytest.raises(InputError) as error:
        read_run(make(files | {name: content}))
    assert message in str(error.value) and "\n" not in str(error.value)
