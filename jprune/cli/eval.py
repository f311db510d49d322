"""Measures a model: perplexity on data sources, accuracy on zero-shot tasks.

jprune eval --model=DIR --data=wikitext2,ptb --protocol=shortened --out=eval.json
jprune eval --model=DIR --tasks=piqa,arc_easy --limit=200 --log_items=items.jsonl
jprune eval --model=DIR --harness --tasks=lambada_openai,mine.yaml
"""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from absl.flags import FlagValues

from jprune.checkpoints import Checkpoint
from jprune.cli import common, flag, output
from jprune.cli.parsing import Flags
from jprune.core.errors import InputError
from jprune.core.files import as_path, write_text
from jprune.core.processes import on_writer
from jprune.core.progress import log
from jprune.evaluate import PROTOCOLS, TASKS, Metric, answer_tasks, averages, evaluate_sources
from jprune.evaluate import task_questions as questions_of
from jprune.evaluate.tasks import find_tasks
from jprune.llama.model import Llama
from jprune.report.sections import protocol_text
from jprune.report.tables import Cell, plus_minus, ppl


def define(flags: FlagValues) -> None:
    """The flags of `jprune eval`."""
    common.define_common(flags, "file for the figures, JSON")
    flag.texts(flags, "data", "known names, files, or file.npz:key")
    flag.text(flags, "data_dir", None, "folder with files of the known names and of the tasks")
    flag.text(
        flags,
        "protocol",
        "shortened",
        "shortened: windows of 128 tokens; gptq: of 2048, or the model's maximum if that is less",
    )
    flag.integer(
        flags, "num_windows", None, "the first so many windows of each source, not all", at_least=1
    )
    flag.texts(flags, "tasks", f"zero-shot tasks: {', '.join(TASKS)}")
    flag.integer(flags, "limit", None, "the first so many items of each task", at_least=1)
    flag.text(flags, "log_items", None, "file for what was answered to every item, JSON lines")
    flag.switch(
        flags, "harness", "lm-evaluation-harness runs the tasks: any that it has, or yaml files"
    )
    flag.text(flags, "include_path", None, "with --harness: a folder with more yaml files of tasks")


def run(flags: Flags) -> int:
    """Evaluates, prints, writes."""
    output.check_out_file(flags.out)
    common.need(flags, "model")
    _check(flags)
    checkpoint = common.load(flags)
    asked = []
    if flags.tasks and not flags.harness:  # data that cannot be read is refused first
        asked = questions_of(
            flags.tasks, checkpoint.tokenizer, limit=flags.limit, data_dir=flags.data_dir
        )
    figures = _figures(flags, checkpoint, checkpoint.llama)
    if checkpoint.filled:
        whole = _figures(flags, checkpoint, checkpoint.filled())
        for before, after in zip(whole, figures, strict=True):
            log.info(
                "%s: NLL %.4f with all that the adapter adds, %.4f with the zeros of its base",
                *(after["data"], before["nll"], after["nll"]),
            )
    if figures:
        print(table(figures))
    metrics, items = _harness(flags, checkpoint) if flags.harness else _answers(checkpoint, asked)
    if metrics:
        print("\n" * bool(figures) + task_table(metrics))
    if flags.log_items:
        lines = (json.dumps(item, ensure_ascii=False) for item in items)
        write_text(flags.log_items, "".join(f"{line}\n" for line in lines))
        output.say(f"wrote {flags.log_items}")
    result = {
        "model": {"path": flags.model, "name": checkpoint.name},
        "perplexity": figures,
        "tasks": [metric.to_json() for metric in metrics],
        "averages": [average.to_json() for average in averages(metrics)],
    }
    output.write(flags, result, flags.protocol if figures else None)
    return 0


def _figures(flags: Flags, checkpoint: Checkpoint, llama: Llama) -> list[dict[str, Any]]:
    measured = evaluate_sources(
        llama,
        checkpoint.tokenizer,
        flags.data,
        flags.protocol,
        num_windows=flags.num_windows,
        data_dir=flags.data_dir,
    )
    return [result.to_json(protocol) for protocol, result in measured]


def _check(flags: Flags) -> None:
    """Raises InputError for flags that do not go together, before anything is read."""
    common.one_of(flags, "protocol", PROTOCOLS)
    if not flags.data and not flags.tasks:
        raise InputError(
            "--data=... or --tasks=... is missing: what to measure perplexity on, or zero-shot "
            f"tasks ({', '.join(TASKS)})"
        )
    if flags.tasks and not flags.harness:
        find_tasks(flags.tasks)
    for name in ("limit", "log_items", "harness", "include_path"):
        if flags[name].value and not flags.tasks:
            raise InputError(f"--{name} is for --tasks=..., which is missing")
    if flags.include_path and not flags.harness:
        raise InputError("--include_path is for tasks of lm-eval; add --harness")
    if flags.harness and flags.data_dir and not flags.data:
        raise InputError(
            "--data_dir serves the tasks of jprune, not those of lm-eval: leave out --harness, or "
            "name a yaml file with dataset_path: json"
        )
    on_writer(lambda: _check_items_file(flags.log_items))


def _check_items_file(name: str | None) -> None:
    if not name:
        return
    if not name.endswith(".jsonl"):
        raise InputError(f"--log_items={name} gets JSON lines; give a name that ends in .jsonl")
    path = as_path(name)
    if path.is_dir():
        raise InputError(f"--log_items={name} is a folder; give the name of a file")
    if path.exists() and not _has_items(path):
        raise InputError(f"--log_items={name} exists and has no items; give another name")


def _has_items(path: Any) -> bool:
    try:
        with path.open("r") as file:
            return "task" in json.loads(file.readline())
    except (OSError, ValueError, TypeError):
        return False


def _answers(checkpoint: Checkpoint, asked: Sequence[Any]) -> tuple[list[Metric], Iterable[Any]]:
    answers = answer_tasks(checkpoint.llama, asked) if asked else []
    metrics = [metric for one in answers for metric in one.metrics]
    return metrics, (item for one in answers for item in one.items())


def _harness(flags: Flags, checkpoint: Checkpoint) -> tuple[list[Metric], Iterable[Any]]:
    from jprune.evaluate.harness import run_harness

    return run_harness(
        checkpoint,
        flags.tasks,
        limit=flags.limit,
        include=flags.include_path,
        items=bool(flags.log_items),
    )


def task_table(metrics: Sequence[Metric]) -> str:
    """One row per task and metric with its standard error, then the averages."""
    rows: list[tuple[Cell, ...]] = [
        (one.task, one.metric, plus_minus(one.value, _finite(one.stderr)), one.n) for one in metrics
    ]
    rows += [
        (one.name, "mean", plus_minus(one.value, _finite(one.stderr)), None)
        for one in averages(metrics)
    ]
    return output.table(rows, ("task", "metric", "value", "items"))


def _finite(error: float) -> float | None:
    return error if error == error else None


def table(figures: Sequence[dict[str, Any]]) -> str:
    """One row per data source: perplexity and NLL with its standard error; then the protocols."""
    rows = [
        (
            figure["data"],
            ppl(figure["ppl"]),
            plus_minus(figure["nll"], figure["standard_error"]),
            figure["tokens"],
        )
        for figure in figures
    ]
    protocols: dict[str, list[str]] = {}
    for figure in figures:
        protocols.setdefault(protocol_text(figure["protocol"]), []).append(figure["data"])
    lines = [
        f"protocol of {', '.join(data)}: {text}" if len(protocols) > 1 else f"protocol: {text}"
        for text, data in protocols.items()
    ]
    return "\n".join([output.table(rows, ("data", "PPL", "NLL", "tokens")), "", *lines])
