"""Zero-shot tasks: what is asked of a model for one row of a data set.

The prompts are those of lm-evaluation-harness, whose names the tasks have. A model chooses what it
finds most likely; nothing is shown to it as an example.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jprune.core.errors import InputError, unknown
from jprune.data.rows import HubRows

Row = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Question:
    """One item of a task.

    Attributes:
      contexts: what stands before each choice; the same for all but in winogrande.
      continuations: what the model is to find likely after it.
      choices: the choices as such, whose lengths `acc_norm` divides by.
      answer: which one is right.
    """

    contexts: tuple[str, ...]
    continuations: tuple[str, ...]
    choices: tuple[str, ...]
    answer: int


@dataclasses.dataclass(frozen=True)
class Task:
    """A data set of questions.

    Attributes:
      name: of the task, and of its file in a folder of data.
      rows: where its rows are on the hub.
      question: of a row.
      metrics: `acc`, the share of questions whose right choice is the most likely; `acc_norm`,
        where it has the most log-likelihood per character.
    """

    name: str
    rows: HubRows
    question: Callable[[Row], Question]
    metrics: tuple[str, ...] = ("acc",)


def _question(context: str, choices: Sequence[str], answer: int) -> Question:
    """A question whose choices come after a context and a space."""
    choices = tuple(choices)
    continuations = tuple(f" {choice}" for choice in choices)
    return Question((context,) * len(choices), continuations, choices, answer)


def boolq(row: Row) -> Question:
    """A yes/no question about a passage; the answer is `label` on the hub, else `answer`."""
    answer = int(row["label"] if "label" in row else row["answer"])
    text = f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:"
    return _question(text, ("no", "yes"), answer)


def piqa(row: Row) -> Question:
    """Which of two solutions reaches a goal."""
    text = f"Question: {row['goal']}\nAnswer:"
    return _question(text, (row["sol1"], row["sol2"]), int(row["label"]))


def winogrande(row: Row) -> Question:
    """Which of two options the blank is: with it filled in, how likely is the rest."""
    before, _, after = row["sentence"].partition("_")
    options = (row["option1"], row["option2"])
    contexts = tuple(before + option for option in options)
    return Question(contexts, (f" {after.strip()}",) * 2, contexts, ("1", "2").index(row["answer"]))


def arc(row: Row) -> Question:
    """A school question with three to five choices."""
    choices = row["choices"]
    text = f"Question: {row['question']}\nAnswer:"
    return _question(text, choices["text"], list(choices["label"]).index(row["answerKey"]))


def rte(row: Row) -> Question:
    """Whether one sentence follows from another; label 0 is that it does."""
    text = f"{row['sentence1']}\nQuestion: {row['sentence2']} True or False?\nAnswer:"
    return _question(text, ("True", "False"), int(row["label"]))


def hellaswag(row: Row) -> Question:
    """How a scene goes on."""
    text = f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"
    endings = [_without_brackets(ending) for ending in row["endings"]]
    return _question(_without_brackets(text), endings, int(row["label"]))


def _without_brackets(text: str) -> str:
    """Text without what WikiHow's markup left in it."""
    text = re.sub(r"\[.*?\]", "", text.strip().replace(" [title]", ". "))
    return text.replace("  ", " ")


def openbookqa(row: Row) -> Question:
    """The beginning of a sentence about elementary science, and four ends."""
    choices = row["choices"]
    answer = list(choices["label"]).index(row["answerKey"].lstrip())
    return _question(row["question_stem"], choices["text"], answer)


_BOTH = ("acc", "acc_norm")

TASKS = {
    task.name: task
    for task in (
        Task("boolq", HubRows("aps/super_glue", "validation", "boolq"), boolq),
        Task("piqa", HubRows("baber/piqa", "validation"), piqa),
        Task(
            "winogrande", HubRows("allenai/winogrande", "validation", "winogrande_xl"), winogrande
        ),
        Task("arc_easy", HubRows("allenai/ai2_arc", "test", "ARC-Easy"), arc),
        Task("arc_challenge", HubRows("allenai/ai2_arc", "test", "ARC-Challenge"), arc, _BOTH),
        Task("rte", HubRows("nyu-mll/glue", "validation", "rte"), rte),
        Task("hellaswag", HubRows("Rowan/hellaswag", "validation"), hellaswag, _BOTH),
        Task("openbookqa", HubRows("allenai/openbookqa", "test", "main"), openbookqa, _BOTH),
    )
}

# Averages that papers report, with the metric of each task: Shortened LLaMA (arXiv 2402.02834) and
# DLP (arXiv 2505.23807).
_COMMON = {
    "boolq": "acc",
    "hellaswag": "acc_norm",
    "winogrande": "acc",
    "arc_easy": "acc",
    "arc_challenge": "acc_norm",
    "openbookqa": "acc_norm",
}
AVERAGES: Mapping[str, Mapping[str, str]] = {
    "avg7_shortened": {**_COMMON, "piqa": "acc"},
    "avg7_dlp": {**_COMMON, "rte": "acc"},
}


def find_tasks(names: Sequence[str]) -> list[Task]:
    """The tasks of these names. Raises InputError for an unknown one, or one named twice."""
    for name in names:
        if name not in TASKS:
            raise unknown("task", name, TASKS)
    if len(set(names)) < len(names):
        raise InputError(f"tasks {', '.join(names)} name one twice")
    return [TASKS[name] for name in names]


def question_of(task: Task, row: Any, where: str) -> Question:
    """The question of a row.

    Raises:
      InputError: the row lacks a field or an answer; `where` says which row it is.
    """
    if not isinstance(row, Mapping):
        raise InputError(f"{where} is no object with fields, so no question of {task.name}")
    try:
        question = task.question(row)
    except KeyError as error:
        fields = ", ".join(map(str, row))
        raise InputError(
            f"{where} has no field {error} of {task.name} (fields: {fields})"
        ) from None
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{where} is no question of {task.name}: {error}") from None
    if not 0 <= question.answer < len(question.choices):
        raise InputError(
            f"{where} has answer {question.answer} of {len(question.choices)} choices; a split "
            "without answers cannot be evaluated"
        )
    return question
