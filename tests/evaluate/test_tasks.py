"""The questions of every task against prompts written out by hand."""

import json

import pytest

from jprune.core.errors import InputError
from jprune.evaluate import AVERAGES, TASKS, Question
from jprune.evaluate.tasks import find_tasks, question_of


def asked(name: str, **row) -> Question:
    return question_of(TASKS[name], row, "row 1")


def test_boolq():
    row = {"question": "is the sky blue", "passage": "The sky -- It is blue."}
    context = "The sky -- It is blue.\nQuestion: is the sky blue?\nAnswer:"
    expected = Question((context, context), (" no", " yes"), ("no", "yes"), 1)
    assert asked("boolq", **row, answer=True) == expected
    assert asked("boolq", **row, label=1) == expected
    assert asked("boolq", **row, answer=False).answer == 0
    assert asked("boolq", **row, label=0).answer == 0


def test_piqa():
    found = asked("piqa", goal="Make tea.", sol1="Boil water ", sol2="boil  oil", label=0)
    assert found.contexts == ("Question: Make tea.\nAnswer:",) * 2
    assert found.continuations == (" Boil water ", " boil  oil")
    assert found.choices == ("Boil water ", "boil  oil")
    assert found.answer == 0


def test_winogrande():
    found = asked(
        "winogrande",
        sentence="Ann thanked Eve because _ had  helped_out. ",
        option1="Ann",
        option2="Eve",
        answer="2",
    )
    assert found.contexts == ("Ann thanked Eve because Ann", "Ann thanked Eve because Eve")
    assert found.continuations == (" had  helped_out.",) * 2
    assert found.answer == 1


@pytest.mark.parametrize("name", ["arc_easy", "arc_challenge"])
@pytest.mark.parametrize("labels", [["A", "B", "C"], ["1", "2", "3"]])
def test_arc(name, labels):
    choices = {"text": ["a stone", "a fish", "rain"], "label": labels}
    found = asked(name, question="What lives?", choices=choices, answerKey=labels[1])
    assert found.contexts == ("Question: What lives?\nAnswer:",) * 3
    assert found.continuations == (" a stone", " a fish", " rain")
    assert found.answer == 1


def test_rte():
    found = asked("rte", sentence1="It rained.", sentence2="It was wet.", label=0)
    assert found.contexts == ("It rained.\nQuestion: It was wet. True or False?\nAnswer:",) * 2
    assert found.continuations == (" True", " False")
    assert found.answer == 0
    assert asked("rte", sentence1="a", sentence2="b", label=1).answer == 1


@pytest.mark.parametrize("label", [2, "2"])
def test_hellaswag(label):
    found = asked(
        "hellaswag",
        activity_label="Baking",
        ctx_a="[header] How to bake [title] Mix it.",
        ctx_b="the COOK  stirs",
        ctx="not read",
        endings=[" and waits.", "[step] sits.", "A [title] B", "so  it [substeps] goes"],
        label=label,
    )
    # The first letter of ctx_b is a capital, the others are not; each of two spaces left in a row
    # once is one, of what is left of brackets too.
    assert found.contexts == ("Baking: How to bake. Mix it. The cook stirs",) * 4
    assert found.choices == ("and waits.", " sits.", "A. B", "so it goes")
    assert found.continuations == (" and waits.", "  sits.", " A. B", " so it goes")
    assert found.answer == 2


def test_openbookqa():
    choices = {"text": ["the moon", "the sun"], "label": ["A", "B"]}
    found = asked("openbookqa", question_stem="Plants need", choices=choices, answerKey=" B")
    assert found.contexts == ("Plants need",) * 2
    assert found.continuations == (" the moon", " the sun")
    assert found.answer == 1


def test_metrics_and_averages():
    both = {name for name, task in TASKS.items() if task.metrics == ("acc", "acc_norm")}
    assert both == {"hellaswag", "arc_challenge", "openbookqa"}
    assert all(task.metrics == ("acc",) for name, task in TASKS.items() if name not in both)
    shortened, dlp = AVERAGES["avg7_shortened"], AVERAGES["avg7_dlp"]
    assert set(TASKS) - set(shortened) == {"rte"} and set(TASKS) - set(dlp) == {"piqa"}
    for average in (shortened, dlp):
        assert {name for name, metric in average.items() if metric == "acc_norm"} == both


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["pika"], "unknown task 'pika'; did you mean 'piqa'? (one of boolq, piqa, "),
        (["rte", "piqa", "rte"], "tasks rte, piqa, rte name one twice"),
    ],
)
def test_unknown_tasks(names, message):
    with pytest.raises(InputError) as caught:
        find_tasks(names)
    assert str(caught.value).startswith(message)


PIQA = {"goal": "g", "sol1": "a", "sol2": "b"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (PIQA, "row 7 has no field 'label' of piqa (fields: goal, sol1, sol2)"),
        ("text", "row 7 is no object with fields, so no question of piqa"),
        (
            PIQA | {"label": -1},
            "row 7 has answer -1 of 2 choices; a split without answers cannot be evaluated",
        ),
        (PIQA | {"label": "x"}, "row 7 is no question of piqa: invalid literal for int()"),
    ],
)
def test_rows_that_are_no_questions(row, message):
    with pytest.raises(InputError) as caught:
        question_of(TASKS["piqa"], row, "row 7")
    assert str(caught.value).startswith(message)


def test_every_row_at_hand_is_a_question(shared):
    for name, task in TASKS.items():
        lines = (shared / "data" / "zeroshot" / f"{name}.jsonl").read_text().splitlines()
        for line in lines:
            question = question_of(task, json.loads(line), name)
            assert len(question.contexts) == len(question.continuations) == len(question.choices)
            assert 2 <= len(question.choices) <= 5
