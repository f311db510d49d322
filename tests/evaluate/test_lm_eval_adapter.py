"""The model that lm-evaluation-harness sees, by itself and under lm-eval."""

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from jprune.checkpoints import load_checkpoint
from jprune.core.errors import InputError
from jprune.evaluate import evaluate_tasks
from jprune.llama import forward, generate
from tests.cli.conftest import model  # noqa: F401
from tests.evaluate.harness_tasks import task_file

pytest.importorskip("lm_eval", reason="needs the extra 'eval'")
from jprune.evaluate.harness import run_harness
from jprune.evaluate.lm_eval_adapter import JpruneLM

PIQA = [
    {"goal": "the cat", "sol1": "runs", "sol2": "sleeps under the old tree", "label": 0},
    {"goal": "a dog", "sol1": "over", "sol2": "over the house", "label": 1},
    {"goal": "old", "sol1": "tree?", "sol2": "a", "label": 1},
]


@pytest.fixture(scope="module")
def checkpoint(model):  # noqa: F811
    return load_checkpoint(model)


@pytest.fixture(scope="module")
def lm(checkpoint):
    return JpruneLM(checkpoint)


@pytest.fixture
def piqa(tmp_path, monkeypatch):
    """A task file on three questions, and the folder with these."""
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    data = tmp_path / "piqa.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in PIQA))
    return task_file(tmp_path, "piqa", data, "my_piqa"), str(tmp_path)


def asked(*args):
    return SimpleNamespace(args=args)


def log_probabilities(llama, ids):
    rows = np.asarray(forward(llama, np.asarray([ids], np.int32)), np.float64)[0]
    return rows - np.log(np.exp(rows).sum(axis=-1, keepdims=True))


def test_a_task_under_lm_eval_is_our_own(checkpoint, piqa):
    file, folder = piqa
    metrics, items = run_harness(checkpoint, [file], items=True)
    (ours,) = evaluate_tasks(checkpoint.llama, checkpoint.tokenizer, ["piqa"], data_dir=folder)
    found = {metric.metric: metric for metric in metrics}
    assert set(found) == {"acc", "acc_norm"} and found["acc"].task == "my_piqa"
    assert found["acc"].value == ours.metrics[0].value and found["acc"].n == 3
    assert found["acc"].stderr == pytest.approx(ours.metrics[0].stderr)
    assert len(items) == 3 and {item["task"] for item in items} == {"my_piqa"}
    for item, own in zip(items, ours.items(), strict=True):
        values = [value for value, _ in item["filtered_resps"]]
        np.testing.assert_allclose(values, own["log_likelihoods"], atol=1e-4)
        assert item["acc"] == own["acc"]
    json.dumps(items)
    again, none = run_harness(checkpoint, ["my_piqa"], limit=2, include=folder)
    assert {metric.n for metric in again} == {2} and none == []


def test_log_likelihoods_and_greedy(lm, checkpoint):
    tokenizer, llama = checkpoint.tokenizer, checkpoint.llama
    context = "the cat"
    ids = [tokenizer.bos_token_id, *tokenizer.encode(context)]
    best = generate(llama, [ids], 1, stop=())[0]
    pairs = [(context, " runs"), ("", "the dog")]
    found = lm.loglikelihood([asked(*pair) for pair in pairs])
    for (before, after), (value, _) in zip(pairs, found, strict=True):
        # This tokenizer adds no BOS by itself, but something must stand before the first token.
        bos = [] if before else [tokenizer.bos_token_id]
        whole = [*bos, *tokenizer.encode(before + after)]
        start = len(bos) + len(tokenizer.encode(before))
        logs = log_probabilities(llama, whole)
        expected = sum(logs[i - 1, whole[i]] for i in range(start, len(whole)))
        assert value == pytest.approx(expected, abs=1e-4)
    (greedy, other) = lm._loglikelihood_tokens([(None, ids, best), (None, ids, [best[0] - 1])])
    assert greedy[1] is True and other[1] is False


def test_rolling_predicts_every_token_once(checkpoint):
    lm = JpruneLM(checkpoint, max_length=10)
    text = "the cat runs over the old house, a dog sleeps under the tree: " * 2
    ids = lm.tok_encode(text)
    assert len(ids) > 25
    # Windows of ten read tokens: the first begins with BOS as context, the others with the token
    # before what they predict; the last reaches back as far as ten tokens go.
    expected, done = 0.0, 10
    logs = log_probabilities(checkpoint.llama, [lm.prefix_token_id, *ids[:9]])
    expected += sum(logs[i, ids[i]] for i in range(10))
    while done < len(ids):
        end = min(done + 10, len(ids))
        logs = log_probabilities(checkpoint.llama, ids[end - 11 : end - 1])
        expected += sum(logs[i - (end - 10), ids[i]] for i in range(done, end))
        done = end
    assert lm.loglikelihood_rolling([asked(text)]) == [pytest.approx(expected, abs=1e-3)]


def test_generation(lm, checkpoint):
    tokenizer = checkpoint.tokenizer
    contexts = ["the cat", "a dog " * 40]
    new = {"max_gen_toks": 12, "do_sample": False}
    free = lm.generate_until([asked(context, {**new, "until": []}) for context in contexts])
    ids = [lm.tok_encode(context)[-(64 - 12) :] for context in contexts]
    assert len(lm.tok_encode(contexts[1])) > 64
    expected = [tokenizer.decode(found) for found in generate(checkpoint.llama, ids, 12)]
    assert free == expected and all(expected)
    stop = free[0][3:5]
    requests = [
        asked(contexts[0], {**new, "until": stop}),
        asked(contexts[0], {"max_new_tokens": 3}),
    ]
    cut, short = lm.generate_until(requests)
    assert cut == free[0].split(stop)[0] != free[0]
    assert short == tokenizer.decode(generate(checkpoint.llama, ids[:1], 3)[0])


def test_arguments(model, checkpoint, caplog):  # noqa: F811
    lm = JpruneLM.create_from_arg_string(
        f"pretrained={model},dtype=bfloat16,add_bos_token=False", {"batch_size": "2", "device": "x"}
    )
    assert str(lm._llama.dtype) == "bfloat16" and lm.batch_size == 2
    assert lm.tok_encode("the") == checkpoint.tokenizer.encode("the")
    assert lm.max_length == 64 and lm.get_model_info()["model_dtype"] == "bfloat16"
    assert JpruneLM(checkpoint, batch_size="auto:4").batch_size == 16
    with pytest.raises(InputError, match="model_args has pretrain, which jprune does not know"):
        JpruneLM(checkpoint, pretrain="x")
    with pytest.raises(InputError, match="64 new tokens leave no room for a prompt in the 64 that"):
        lm.generate_until([asked("a", {"max_gen_toks": 64})])
    lm.generate_until([asked("a", {"max_gen_toks": 2, "num_beams": 3})])
    assert "generation does without num_beams" in caplog.text


def test_sampling(checkpoint):
    from jprune.evaluate.lm_eval_adapter import _sampling
    from jprune.llama import Sampling

    assert _sampling({"do_sample": False, "temperature": 0.7}) == Sampling()
    drawn = {"do_sample": True, "temperature": 0.7, "top_k": 5, "top_p": 0.9}
    assert _sampling(drawn) == Sampling(0.7, 5, 0.9)
    assert _sampling({"do_sample": True, "temperature": 1.0, "top_k": 0}) == Sampling(1.0)


def test_unknown_tasks(checkpoint, tmp_path):
    with pytest.raises(InputError, match="lm-eval has no task 'lambada_openia'; did you mean 'lam"):
        run_harness(checkpoint, ["lambada_openia"])
    with pytest.raises(InputError, match="no such file: gone.yaml"):
        run_harness(checkpoint, ["gone.yaml"])
    with pytest.raises(InputError, match="--include_path: no such folder: gone"):
        run_harness(checkpoint, ["piqa"], include="gone")


def test_without_lm_eval(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "lm_eval"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delitem(sys.modules, "jprune.evaluate.lm_eval_adapter")
    with pytest.raises(InputError) as caught:
        import jprune.evaluate.lm_eval_adapter  # noqa: F401
    assert str(caught.value).startswith("lm-evaluation-harness is not installed (")
    assert "pip install 'jprune[eval]'" in str(caught.value)


def test_the_command_line_of_lm_eval(model, piqa, tmp_path):  # noqa: F811
    file, folder = piqa
    out = tmp_path / "out"
    command = [sys.executable, "-m", "jprune.evaluate.lm_eval_adapter", "--model", "jprune"]
    command += ["--model_args", f"pretrained={model}", "--tasks", file, "--output_path", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 0, done.stderr
    (written,) = out.rglob("results_*.json")
    checkpoint = load_checkpoint(model)
    (ours,) = evaluate_tasks(checkpoint.llama, checkpoint.tokenizer, ["piqa"], data_dir=folder)
    assert (
        json.loads(written.read_text())["results"]["my_piqa"]["acc,none"] == ours.metrics[0].value
    )
    command[command.index(f"pretrained={model}")] = "pretrained=/gone"
    failed = subprocess.run(command, capture_output=True, text=True, env={**os.environ})
    assert failed.returncode == 2
    assert "jprune: error: no such checkpoint: /gone" in failed.stderr
    assert "Traceback" not in failed.stderr


@pytest.mark.parity
def test_as_the_backend_for_hugging_face(shared):
    pytest.importorskip("torch")
    huggingface = pytest.importorskip("lm_eval.models.huggingface")
    folder = shared / "models" / "llama-16m"
    theirs = huggingface.HFLM(str(folder), dtype="float32", device="cpu", batch_size=4)
    ours = JpruneLM(str(folder), dtype="float32")
    lines = (shared / "data" / "gsm8k.jsonl").read_text().splitlines()[:6]
    texts = [json.loads(line)["question"] for line in lines]
    rolling = [asked(text) for text in (*texts[:2], " ".join(texts * 2))]
    np.testing.assert_allclose(
        ours.loglikelihood_rolling(rolling), theirs.loglikelihood_rolling(rolling), rtol=1e-5
    )
    pairs = [("", texts[0]), (texts[0] + " ", "The"), (" ".join(texts * 3), " ten")]
    requests = [asked(*pair) for pair in pairs]
    for mine, other in zip(
        ours.loglikelihood(requests), theirs.loglikelihood(requests), strict=True
    ):
        assert mine[0] == pytest.approx(other[0], abs=1e-3) and mine[1] == other[1]
    settings = {"until": ["\n", "."], "max_gen_toks": 24, "do_sample": False}
    requests = [asked(f"Question: {text}\nAnswer:", settings) for text in texts]
    # One by one: in a batch, their padding on the left changes the positions that they read.
    for request in requests:
        assert ours.generate_until([request]) == theirs.generate_until([request])
