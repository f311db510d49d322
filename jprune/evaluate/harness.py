"""Any task of lm-evaluation-harness, run by it on a model of jprune."""

import os
from collections.abc import Sequence
from typing import Any

from jprune.checkpoints import Checkpoint
from jprune.core.errors import InputError, nearest
from jprune.core.files import jsonable
from jprune.evaluate.multiple_choice import Metric


def run_harness(
    checkpoint: Checkpoint,
    names: Sequence[str],
    *,
    limit: int | None = None,
    include: str | None = None,
    items: bool = False,
) -> tuple[list[Metric], list[dict[str, Any]]]:
    """The figures of tasks, and every item by itself where `items` asks for them.

    Args:
      checkpoint: the model with its tokenizer.
      names: tasks, groups and tags of lm-eval, or yaml files that describe a task.
      limit: the first so many items of each task; None for all.
      include: a folder with further yaml files of tasks.
      items: whether to keep what lm-eval logs of every item.

    Raises:
      InputError: lm-eval is not installed, or has no such task (with the nearest name); or no such
        file.
    """
    from jprune.evaluate.lm_eval_adapter import JpruneLM  # says so if lm-eval is missing

    # Before the model is prepared: a mistaken name costs nothing.
    manager = _manager(include)
    tasks = [_task(name, manager.all_tasks) for name in names]
    from lm_eval import simple_evaluate

    found: Any = simple_evaluate(
        JpruneLM(checkpoint),
        tasks=tasks,
        limit=limit,
        log_samples=items,
        task_manager=manager,
    )
    metrics = [
        metric
        for name, values in found["results"].items()
        for metric in _metrics(name, values, _count(name, found))
    ]
    logged = found.get("samples", {}) if items else {}
    rows = [{"task": name, **jsonable(item)} for name, part in logged.items() for item in part]
    return metrics, rows


def _manager(include: str | None) -> Any:
    from lm_eval.tasks import TaskManager

    if include is not None and not os.path.isdir(include):
        raise InputError(f"--include_path: no such folder: {include}")
    return TaskManager(include_path=include)


def _task(name: str, known: Sequence[str]) -> str:
    if name.endswith((".yaml", ".yml")):
        if not os.path.isfile(name):
            raise InputError(f"no such file: {name}")
        return os.path.abspath(name)
    if name not in known:
        close = nearest(name, known)
        hint = f"; did you mean {close!r}?" if close else ""
        raise InputError(
            f"lm-eval has no task {name!r}{hint} (lm_eval ls tasks lists all {len(known)}; a yaml "
            "file that describes one works too)"
        )
    return name


def _metrics(name: str, values: dict[str, Any], count: int) -> list[Metric]:
    """The figures of one task: lm-eval's keys are `metric,filter` and `metric_stderr,filter`."""
    metrics = []
    for key, value in values.items():
        metric, comma, kind = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        stderr = values.get(f"{metric}_stderr,{kind}")
        error = float(stderr) if isinstance(stderr, int | float) else float("nan")
        label = metric if kind == "none" else f"{metric},{kind}"
        metrics.append(Metric(name, label, float(value), error, count))
    return metrics


def _count(name: str, found: dict[str, Any]) -> int:
    """How many items a task has, or the tasks of a group together."""
    own = found.get("n-samples", {}).get(name)
    if own is not None:
        return int(own["effective"])
    return sum(_count(part, found) for part in found.get("group_subtasks", {}).get(name, ()))
