"""Zero-shot evaluation: the choice that a model finds most likely, against the right one."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from jprune.core.errors import InputError
from jprune.data.rows import named_rows
from jprune.evaluate.encoding import Request, TextEncoder
from jprune.evaluate.log_likelihoods import log_likelihoods
from jprune.evaluate.tasks import AVERAGES, Question, Task, find_tasks, question_of
from jprune.llama.model import Llama


@dataclasses.dataclass(frozen=True)
class Metric:
    """A figure of a task.

    Attributes:
      task: its name.
      metric: "acc" or "acc_norm".
      value: the share of questions that were answered right.
      stderr: its standard error, sqrt(p (1 - p) / (n - 1)); NaN for a single question.
      n: how many questions.
    """

    task: str
    metric: str
    value: float
    stderr: float
    n: int

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Average:
    """The mean of one metric of each of several tasks.

    Attributes:
      name: one of `AVERAGES`.
      value: the mean.
      stderr: its standard error, the tasks' being independent.
      metrics: which metric of each task.
    """

    name: str
    value: float
    stderr: float
    metrics: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class TaskQuestions:
    """The questions of a task, encoded for a tokenizer: they may be asked of several models.

    Attributes:
      task: the task.
      questions: in the order of its data.
      requests: of each question, those of its choices.
    """

    task: Task
    questions: tuple[Question, ...]
    requests: tuple[tuple[Request, ...], ...]

    def take(self, items: Sequence[int] | Int[np.ndarray, " items"]) -> "TaskQuestions":
        """The questions of these numbers, in this order."""
        questions = tuple(self.questions[int(item)] for item in items)
        requests = tuple(self.requests[int(item)] for item in items)
        return dataclasses.replace(self, questions=questions, requests=requests)


@dataclasses.dataclass(frozen=True)
class TaskAnswers:
    """What a model answered.

    Attributes:
      asked: the questions.
      log_likelihoods: of each question, those of its choices, in nats.
    """

    asked: TaskQuestions
    log_likelihoods: tuple[Float[np.ndarray, " _"], ...]

    def correct(self, metric: str) -> Bool[np.ndarray, " questions"]:
        """Whether each question is answered right under a metric; of equals, the first counts."""
        rows = zip(self.asked.questions, self.log_likelihoods, strict=True)
        return np.asarray([_choice(q, values, metric) == q.answer for q, values in rows], bool)

    @property
    def metrics(self) -> list[Metric]:
        """The figures of the task's metrics."""
        name = self.asked.task.name
        return [_metric(name, metric, self.correct(metric)) for metric in self.asked.task.metrics]

    def items(self) -> list[dict[str, Any]]:
        """Every question by itself: what was asked, how likely the choices are, what is right."""
        task = self.asked.task
        correct = {metric: self.correct(metric) for metric in task.metrics}
        rows = enumerate(zip(self.asked.questions, self.log_likelihoods, strict=True))
        return [
            {
                "task": task.name,
                "item": number,
                "contexts": list(question.contexts),
                "continuations": list(question.continuations),
                "answer": question.answer,
                "log_likelihoods": values.tolist(),
                **{metric: int(right[number]) for metric, right in correct.items()},
            }
            for number, (question, values) in rows
        ]


def task_questions(
    names: Sequence[str], tokenizer: Any, *, limit: int | None = None, data_dir: str | None = None
) -> list[TaskQuestions]:
    """The questions of tasks, from a folder or the hub.

    Args:
      names: of `jprune.evaluate.tasks.TASKS`.
      tokenizer: of the models that are to be asked.
      limit: the first so many questions of each; None for all.
      data_dir: a folder that serves a task from `data_dir/TASK.*`; see `named_rows`.

    Raises:
      InputError: an unknown task, data that cannot be read, or no tokenizer.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit is an integer from 1 on, not {limit}")
    tasks = find_tasks(names)
    encoder = TextEncoder(tokenizer)
    found = []
    for task in tasks:
        rows = named_rows(task.name, task.rows, limit, data_dir)
        questions = tuple(question_of(task, row, where) for where, row in rows)
        found.append(TaskQuestions(task, questions, _requests(questions, encoder)))
    return found


def _requests(
    questions: Sequence[Question], encoder: TextEncoder
) -> tuple[tuple[Request, ...], ...]:
    pairs = [pair for q in questions for pair in zip(q.contexts, q.continuations, strict=True)]
    encoded = iter(encoder.pairs(pairs))
    return tuple(tuple(next(encoded) for _ in q.contexts) for q in questions)


def answer_tasks(llama: Llama, asked: Sequence[TaskQuestions]) -> list[TaskAnswers]:
    """What a model answers to the questions of all tasks, which run together.

    Errors: see `jprune.evaluate.log_likelihoods`.
    """
    flat = [requests for one in asked for requests in one.requests]
    keys = [number for number, requests in enumerate(flat) for _ in requests]
    requests = [request for requests in flat for request in requests]
    values = log_likelihoods(llama, requests, keys, label="zero-shot tasks").values
    ends = np.cumsum([len(requests) for requests in flat])[:-1]
    by_question = iter(np.split(values, ends))
    return [TaskAnswers(one, tuple(next(by_question) for _ in one.questions)) for one in asked]


def task_correct(
    llama: Llama,
    asked: TaskQuestions,
    items: Sequence[int] | Int[np.ndarray, " items"] | None = None,
    metric: str | None = None,
) -> Float[np.ndarray, " items"]:
    """1 for every question that a model answers right, 0 for the others.

    These are the numbers of an `Objective` of search that is to be maximised.

    Args:
      llama: a model in any form.
      asked: the questions of a task.
      items: which of them, by number; None for all.
      metric: "acc" or "acc_norm"; by default the last that the task has.
    """
    chosen = asked if items is None else asked.take(items)
    (answers,) = answer_tasks(llama, [chosen])
    return answers.correct(metric or asked.task.metrics[-1]).astype(np.float64)


def evaluate_tasks(
    llama: Llama,
    tokenizer: Any,
    names: Sequence[str],
    *,
    limit: int | None = None,
    data_dir: str | None = None,
) -> list[TaskAnswers]:
    """`answer_tasks` of `task_questions`: `[m.to_json() for one in ... for m in one.metrics]`.

    >>> [one] = evaluate_tasks(llama, tokenizer, ["piqa"], limit=100)
    >>> [metric] = one.metrics
    >>> print(metric.value, metric.stderr)
    """
    return answer_tasks(llama, task_questions(names, tokenizer, limit=limit, data_dir=data_dir))


def averages(metrics: Sequence[Metric]) -> list[Average]:
    """Those averages of `AVERAGES` of whose tasks all were run."""
    found = {(one.task, one.metric): one for one in metrics}
    return [
        _average(name, parts, [found[part] for part in parts.items()])
        for name, parts in AVERAGES.items()
        if all(part in found for part in parts.items())
    ]


def _average(name: str, parts: Any, metrics: Sequence[Metric]) -> Average:
    value = math.fsum(one.value for one in metrics) / len(metrics)
    stderr = math.sqrt(math.fsum(one.stderr**2 for one in metrics)) / len(metrics)
    return Average(name, value, stderr, dict(parts))


def _metric(task: str, metric: str, correct: Bool[np.ndarray, " questions"]) -> Metric:
    n = len(correct)
    share = float(np.mean(correct))
    stderr = math.sqrt(share * (1 - share) / (n - 1)) if n > 1 else float("nan")
    return Metric(task, metric, share, stderr, n)


def _choice(question: Question, values: Float[np.ndarray, " choices"], metric: str) -> int:
    if metric == "acc":
        return int(np.argmax(values))
    lengths = np.asarray([len(choice) for choice in question.choices], float)
    with np.errstate(divide="ignore", invalid="ignore"):
        return int(np.argmax(values / lengths))
