"""`jprune eval --tasks` against the figures that the library gives."""

import json

import pytest

from jprune.checkpoints import export_huggingface, load, load_checkpoint
from jprune.evaluate import AVERAGES, TASKS, evaluate_tasks

LABELS = ["A", "B", "C"]
CHOICES = {"text": ["the cat", "a dog runs", "old"], "label": LABELS}
# A row of each task, to be repeated with other answers.
ROWS = {
    "boolq": {"question": "a cat", "passage": "the old cat.", "answer": True},
    "piqa": {"goal": "the tree", "sol1": "runs", "sol2": "sleeps over", "label": 0},
    "winogrande": {
        "sentence": "the dog and _ run.",
        "option1": "a cat",
        "option2": "a tree",
        "answer": "1",
    },
    "arc_easy": {"question": "the cat?", "choices": CHOICES, "answerKey": "A"},
    "arc_challenge": {"question": "a house?", "choices": CHOICES, "answerKey": "B"},
    "rte": {"sentence1": "the cat runs.", "sentence2": "a cat.", "label": 0},
    "hellaswag": {
        "activity_label": "Cats",
        "ctx_a": "the cat.",
        "ctx_b": "a dog",
        "endings": ["runs", "sleeps", "is old", "is under a tree"],
        "label": "2",
    },
    "openbookqa": {"question_stem": "the old tree", "choices": CHOICES, "answerKey": "C"},
}


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for name, row in ROWS.items():
        rows = [{key: _numbered(value, n) for key, value in row.items()} for n in range(3)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


def _numbered(value, number):
    texts = ("the ", "a ", "old ")
    return texts[number] + value if isinstance(value, str) and len(value) > 3 else value


def test_all_tasks_and_perplexity(jprune, model, text, data, tmp_path):
    out, items = tmp_path / "e.json", tmp_path / "items.jsonl"
    status, printed, _ = jprune(
        *("eval", f"--model={model}", f"--tasks={','.join(TASKS)}", f"--data_dir={data}"),
        *(f"--data={text}", "--num_windows=2", f"--out={out}", f"--log_items={items}"),
    )
    assert status == 0
    found = json.loads(out.read_text())
    checkpoint = load_checkpoint(model)
    answers = evaluate_tasks(
        checkpoint.llama, checkpoint.tokenizer, list(TASKS), data_dir=str(data)
    )
    metrics = [metric.to_json() for one in answers for metric in one.metrics]
    assert [set(row) for row in found["tasks"]] == [{"task", "metric", "value", "stderr", "n"}] * 11
    assert found["tasks"] == metrics and len(found["perplexity"]) == 1
    values = {(row["task"], row["metric"]): row["value"] for row in metrics}
    assert [one["name"] for one in found["averages"]] == list(AVERAGES)
    for one in found["averages"]:
        parts = [values[part] for part in AVERAGES[one["name"]].items()]
        assert one["value"] == pytest.approx(sum(parts) / 7)
        assert one["name"] in printed
    lines = [json.loads(line) for line in items.read_text().splitlines()]
    assert lines == [item for one in answers for item in one.items()]
    table = printed.split("\n\n")[-1].splitlines()
    assert table[0].split() == ["task", "metric", "value", "items"]
    assert table[2].split()[:2] == ["boolq", "acc"] and table[2].split()[-1] == "3"
    # The same command again replaces both files.
    again = jprune("eval", f"--model={model}", "--tasks=rte", f"--data_dir={data}", "--limit=2")
    assert again[0] == 0 and again[1].splitlines()[-1].split()[-1] == "2"
    assert (
        jprune(
            *("eval", f"--model={model}", "--tasks=rte", f"--data_dir={data}", f"--out={out}"),
            f"--log_items={items}",
        )[0]
        == 0
    )
    found = json.loads(out.read_text())
    assert found["perplexity"] == found["averages"] == [] and len(found["tasks"]) == 1
    assert len(items.read_text().splitlines()) == 3


def test_a_single_item_has_no_error(jprune, model, data, tmp_path):
    out = tmp_path / "e.json"
    flags = ("--tasks=piqa", f"--data_dir={data}", "--limit=1", f"--out={out}")
    status, printed, _ = jprune("eval", f"--model={model}", *flags)
    (row,) = json.loads(out.read_text())["tasks"]
    assert status == 0 and row["stderr"] is None and row["n"] == 1
    assert "±" not in printed and "nan" not in printed


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "--data=... or --tasks=... is missing: what to measure perplexity on, or zero-shot"),
        (["--tasks=hellaswg"], "unknown task 'hellaswg'; did you mean 'hellaswag'? (one of boolq,"),
        (["--tasks=rte,rte"], "tasks rte, rte name one twice"),
        (["--data=x", "--limit=3"], "--limit is for --tasks=..., which is missing"),
        (["--data=x", "--harness"], "--harness is for --tasks=..., which is missing"),
        (["--tasks=rte", "--include_path=."], "--include_path is for tasks of lm-eval; add --har"),
        (["--tasks=rte", "--log_items=a.json"], "--log_items=a.json gets JSON lines; give a name"),
        (["--tasks=rte", "--limit=0"], "--limit=0"),
        (["--tasks=rte", "--harness", "--data_dir=."], "--data_dir serves the tasks of jprune, "),
        (["--tasks=rte", "--data_dir=gone"], "--data_dir: no such folder: gone"),
    ],
)
def test_bad_calls(refused, model, flags, message):
    assert message in refused("eval", f"--model={model}", *flags)


def test_files_of_others_are_kept(refused, model, data, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text('{"text": "mine"}\n')
    argv = ("eval", f"--model={model}", "--tasks=rte", f"--data_dir={data}")
    message = refused(*argv, f"--log_items={other}")
    assert message == f"--log_items={other} exists and has no items; give another name"
    assert other.read_text() == '{"text": "mine"}\n'
    (tmp_path / "folder.jsonl").mkdir()
    message = refused(*argv, f"--log_items={tmp_path / 'folder.jsonl'}")
    assert message.endswith("is a folder; give the name of a file")


def test_no_tokenizer(refused, model, data, tmp_path):
    export_huggingface(tmp_path / "m", load(model), None)
    argv = ("eval", f"--model={tmp_path / 'm'}", "--tasks=rte", f"--data_dir={data}")
    assert refused(*argv).startswith("the model has no tokenizer, so texts cannot be read")


def test_harness(jprune, refused, model, data, tmp_path, monkeypatch):
    pytest.importorskip("lm_eval", reason="needs the extra 'eval'")
    from tests.evaluate.harness_tasks import task_file

    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    file = task_file(tmp_path, "rte", data / "rte.jsonl", "my_rte")
    out, items = tmp_path / "e.json", tmp_path / "items.jsonl"
    flags = ("--harness", f"--tasks={file}", f"--out={out}", f"--log_items={items}")
    status, printed, _ = jprune("eval", f"--model={model}", *flags)
    assert status == 0 and "my_rte" in printed
    (row,) = json.loads(out.read_text())["tasks"]
    checkpoint = load_checkpoint(model)
    (ours,) = evaluate_tasks(checkpoint.llama, checkpoint.tokenizer, ["rte"], data_dir=str(data))
    assert row == ours.metrics[0].to_json() | {"task": "my_rte"}
    assert len(items.read_text().splitlines()) == 3
    message = refused("eval", f"--model={model}", "--harness", "--tasks=hellaswg")
    assert message.startswith("lm-eval has no task 'hellaswg'; did you mean 'hellaswag'?")
