"""Answers, figures and averages of small tasks."""

import json
import math

import jax
import numpy as np
import pytest

from jprune.core.errors import InputError
from jprune.evaluate import (
    AVERAGES,
    TASKS,
    Metric,
    Question,
    Request,
    TaskAnswers,
    TaskQuestions,
    answer_tasks,
    averages,
    evaluate_tasks,
    task_correct,
    task_questions,
)
from jprune.llama import forward
from tests.evaluate.words import Words
from tests.tiny import tiny

PIQA = [
    {"goal": "go", "sol1": "a b c", "sol2": "d", "label": 0},
    {"goal": "stay here", "sol1": "a", "sol2": "a b", "label": 1},
    {"goal": "see ? now", "sol1": "e f", "sol2": "?", "label": 0},
]
OPENBOOKQA = [
    {
        "question_stem": "plants need",
        "choices": {"text": ["sun", "a big moon"], "label": ["A", "B"]},
        "answerKey": "A",
    }
]


@pytest.fixture
def data(tmp_path):
    for name, rows in (("piqa", PIQA), ("openbookqa", OPENBOOKQA)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(lines)
    return str(tmp_path)


def alone(llama, ids, context):
    """Sum of log p of the ids after the first `context`, in NumPy."""
    rows = np.asarray(jax.jit(forward)(llama, np.asarray([ids], np.int32)), np.float64)[0]
    logs = rows - np.log(np.exp(rows).sum(axis=-1, keepdims=True))
    return sum(logs[i - 1, ids[i]] for i in range(context, len(ids)))


def test_answers_of_a_model(data):
    llama, tokenizer = tiny(1), Words()
    (asked,) = task_questions(["piqa"], tokenizer, data_dir=data)
    (answers,) = answer_tasks(llama, [asked])
    items = answers.items()
    assert [item["item"] for item in items] == [0, 1, 2]
    for row, item in zip(PIQA, items, strict=True):
        context = tokenizer.encode(f"Question: {row['goal']}\nAnswer:")
        expected = [
            alone(llama, context + tokenizer.encode(f" {row[s]}", False), len(context))
            for s in ("sol1", "sol2")
        ]
        np.testing.assert_allclose(item["log_likelihoods"], expected, atol=1e-4)
        assert item["acc"] == (int(np.argmax(expected)) == row["label"])
        assert item["answer"] == row["label"] and item["task"] == "piqa"
        assert item["contexts"] == [f"Question: {row['goal']}\nAnswer:"] * 2
        assert item["continuations"] == [f" {row['sol1']}", f" {row['sol2']}"]
    (metric,) = answers.metrics
    share = sum(item["acc"] for item in items) / 3
    assert (metric.task, metric.metric, metric.n) == ("piqa", "acc", 3)
    assert metric.value == pytest.approx(share)


def test_several_tasks_and_a_limit(data):
    llama = tiny(1)
    found = evaluate_tasks(llama, Words(), ["openbookqa", "piqa"], limit=2, data_dir=data)
    assert [len(one.asked.questions) for one in found] == [1, 2]
    figures = [(m.task, m.metric, m.n) for one in found for m in one.metrics]
    assert figures == [("openbookqa", "acc", 1), ("openbookqa", "acc_norm", 1), ("piqa", "acc", 2)]
    assert math.isnan(found[0].metrics[0].stderr)


def test_single_items_for_a_search(data):
    llama = tiny(1)
    (asked,) = task_questions(["piqa"], Words(), data_dir=data)
    right = [item["acc"] for item in answer_tasks(llama, [asked])[0].items()]
    assert task_correct(llama, asked).tolist() == right
    assert task_correct(llama, asked, [2, 0]).tolist() == [right[2], right[0]]
    assert asked.take([2, 0]).requests == (asked.requests[2], asked.requests[0])
    (other,) = task_questions(["openbookqa"], Words(), data_dir=data)
    (answers,) = answer_tasks(llama, [other])
    for metric in ("acc", "acc_norm"):
        expected = answers.correct(metric).tolist()
        assert task_correct(llama, other, metric=metric).tolist() == expected
    assert task_correct(llama, other).tolist() == answers.correct("acc_norm").tolist()


def answers_of(rows, choices, right, name="hellaswag"):
    questions = tuple(
        Question(("",) * len(row), ("",) * len(row), choices[: len(row)], answer)
        for row, answer in zip(rows, right, strict=True)
    )
    requests = tuple((Request((1,), (1,)),) * len(row) for row in rows)
    asked = TaskQuestions(TASKS[name], questions, requests)
    return TaskAnswers(asked, tuple(np.asarray(row) for row in rows))


def test_metrics_by_hand():
    # Per character: -4/2, -3/1; -2/2, -2/1; -6/2, -1/1; the first of equals counts.
    rows = [[-4.0, -3.0], [-2.0, -2.0], [-6.0, -1.0], [-1.0]]
    found = answers_of(rows, ("aé", "b"), [0, 1, 1, 0])
    assert found.correct("acc").tolist() == [False, False, True, True]
    assert found.correct("acc_norm").tolist() == [True, False, True, True]
    acc, norm = found.metrics
    assert acc == Metric("hellaswag", "acc", 0.5, math.sqrt(0.25 / 3), 4)
    assert norm == Metric("hellaswag", "acc_norm", 0.75, math.sqrt(0.1875 / 3), 4)


def test_choices_without_characters():
    # As lm-eval has it: -3/0 is the least, 0/0 comes before all.
    found = answers_of([[-3.0, -4.0], [0.0, -4.0]], ("", "bb"), [1, 0])
    assert found.correct("acc_norm").tolist() == [True, True]


def metrics_of(names):
    return [
        Metric(name, metric, 0.1 * place + (metric == "acc_norm"), 0.01 * place, 10)
        for place, name in enumerate(names)
        for metric in TASKS[name].metrics
    ]


def test_averages():
    names = ["boolq", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa"]
    (found,) = averages(metrics_of(names))
    assert found.name == "avg7_shortened" and found.metrics == AVERAGES["avg7_shortened"]
    assert found.value == pytest.approx((0.1 * sum(range(7)) + 3) / 7)
    assert found.stderr == pytest.approx(0.01 * math.sqrt(sum(i * i for i in range(7))) / 7)
    (other,) = averages(metrics_of(["boolq", "rte", *names[2:]]))
    assert other.name == "avg7_dlp" and other.value == pytest.approx(found.value)
    assert [one.name for one in averages(metrics_of([*names, "rte"]))] == list(AVERAGES)
    assert averages(metrics_of(names[1:])) == []


def test_messages(data, tmp_path):
    def message(names, **kwargs):
        with pytest.raises(InputError) as caught:
            task_questions(names, Words(), data_dir=data, **kwargs)
        return str(caught.value)

    assert message(["piqqa"]).startswith("unknown task 'piqqa'; did you mean 'piqa'?")
    assert message(["piqa"], limit=0) == "limit is an integer from 1 on, not 0"
    row = dict(PIQA[0])
    del row["sol2"]
    (tmp_path / "piqa.jsonl").write_text(json.dumps(PIQA[1]) + "\n" + json.dumps(row))
    expected = f"{tmp_path}/piqa.jsonl, line 2 has no field 'sol2' of piqa (fields: goal, sol1, "
    assert message(["piqa"]).startswith(expected)
    (tmp_path / "piqa.jsonl").write_text("")
    assert message(["piqa"]) == f"piqa has no rows in {tmp_path}/piqa.jsonl"
