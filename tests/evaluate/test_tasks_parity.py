"""Every task against lm-evaluation-harness with its own backend for Hugging Face models."""

import numpy as np
import pytest

from jprune.checkpoints import load_checkpoint
from jprune.evaluate import TASKS, evaluate_tasks
from tests.evaluate.harness_tasks import task_file

pytestmark = pytest.mark.parity
LIMIT = 30


@pytest.fixture(scope="module")
def theirs(shared, tmp_path_factory):
    """lm-eval's results, samples included."""
    pytest.importorskip("torch")
    pytest.importorskip("lm_eval")
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    folder = tmp_path_factory.mktemp("tasks")
    zeroshot = shared / "data" / "zeroshot"
    files = [task_file(folder, name, zeroshot / f"{name}.jsonl") for name in TASKS]
    model = HFLM(str(shared / "models" / "llama-16m"), dtype="float32", device="cpu", batch_size=16)
    return simple_evaluate(model, tasks=files, limit=LIMIT, bootstrap_iters=0)


@pytest.fixture(scope="module")
def ours(shared):
    checkpoint = load_checkpoint(shared / "models" / "llama-16m", "float32")
    data = str(shared / "data" / "zeroshot")
    answers = evaluate_tasks(
        checkpoint.llama, checkpoint.tokenizer, list(TASKS), limit=LIMIT, data_dir=data
    )
    return {one.asked.task.name: one for one in answers}


@pytest.mark.parametrize("name", TASKS)
def test_item_by_item(ours, theirs, name):
    samples = sorted(theirs["samples"][name], key=lambda sample: sample["doc_id"])
    items = ours[name].items()
    assert len(items) == len(samples) == LIMIT
    for item, sample in zip(items, samples, strict=True):
        pairs = list(zip(item["contexts"], item["continuations"], strict=True))
        assert pairs == [tuple(pair) for pair in sample["arguments"]]
        values = [value for value, _ in sample["filtered_resps"]]
        np.testing.assert_allclose(item["log_likelihoods"], values, rtol=0, atol=1e-3)
        for metric in TASKS[name].metrics:
            assert item[metric] == sample[metric]


@pytest.mark.parametrize("name", TASKS)
def test_figures(ours, theirs, name):
    for metric in ours[name].metrics:
        found = theirs["results"][name]
        assert metric.value == found[f"{metric.metric},none"]
        assert metric.n == theirs["n-samples"][name]["effective"]
    share = ours[name].metrics[0].value
    assert ours[name].metrics[0].stderr == pytest.approx((share * (1 - share) / (LIMIT - 1)) ** 0.5)
