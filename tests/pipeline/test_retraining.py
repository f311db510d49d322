"""Retraining of pruned models: what trains, what is written, what stays zero, what is refused."""

import json

import jax
import numpy as np
import pytest

from jprune.checkpoints import load, load_checkpoint, load_tokenizer
from jprune.cli.main import main
from jprune.core.errors import InputError
from jprune.core.files import read_json
from jprune.data import TrainingSet, alpaca_document, find_source
from jprune.llama import to_params
from jprune.llama.model import count_params
from jprune.llama.names import named_params
from jprune.pipeline.depth_config import depth_config
from jprune.pipeline.job import dry_run, run_config
from jprune.pipeline.training_data import training_set
from jprune.report.tables import count
from jprune.transforms import Recipe, drop_blocks
from jprune.transforms.stored import stored_digests
from tests.pipeline.runs import eval_ids, ppl, ran

TRAIN = {
    "steps": 4,
    "batch_size": 4,
    "micro_batch_size": 2,
    "learning_rate": 0.02,
    "warmup_steps": 1,
    "checkpoint_every": 2,
}
LORA = {"rank": 3, "alpha": 6.0, "dropout": 0.1}


def retrain(text, kind="lora", **changes):
    """The group `retrain` of a run that takes a few seconds."""
    train = TRAIN | changes.pop("train", {})
    base = {"kind": kind, "data": str(text), "window_length": 32, "validation_windows": 3}
    return base | {"train": train, "lora": LORA | changes.pop("lora", {})} | changes


@pytest.fixture
def depth(config, text):
    """A function (kind, changes of the group) -> config of a depth pruning run with retraining."""

    def make(kind, /, run=None, **changes):
        return config(curve_windows=0, retrain=retrain(text, kind, **changes)) | (run or {})

    return make


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, to_params(a), to_params(b))


def check_written(workdir, record, model, text, tmp_path):
    """Model, checkpoint, recipe and figures are those of one retrained model, which it returns."""
    final = load(workdir / "checkpoints" / "retrained")
    same(load(workdir / "model"), final)
    recipe = read_json(workdir / "recipe.json")
    for folder in ("model", "checkpoints/retrained"):
        assert load_checkpoint(workdir / folder).recipe == recipe
    names = {path.stem for path in (workdir / "arrays").glob("*.safetensors")}
    assert names == set(stored_digests(recipe["steps"]))
    out = tmp_path / "applied"
    assert main(["apply", f"--recipe={workdir / 'recipe.json'}", f"--out={out}"]) == 0
    same(load(out), final)
    ids = eval_ids(model, text, 5)
    (figure,) = record["figures"]["retrained"]["perplexity"]
    np.testing.assert_allclose(figure["ppl"], ppl(final, ids), rtol=1e-5)
    card = (workdir / "model" / "README.md").read_text()
    assert f"{figure['ppl']:.4g}" in card
    return final


def test_lora_on_a_model_without_a_block(tmp_path, depth, model, text):
    workdir = tmp_path / "W"
    record = run_config(depth("lora"), workdir)
    final = check_written(workdir, record, model, text, tmp_path)
    (gone,) = (unit["layer"] for unit in record["removed"])
    pruned = drop_blocks([gone])(load(model))
    # The sum by hand, from the factors in the adapter that PEFT would read.
    adapted = load(workdir / "adapter", adapters="keep")
    for ours, base, trained in zip(adapted.blocks, pruned.blocks, final.blocks, strict=True):
        for part, name in (("attn", "q"), ("mlp", "down")):
            lora, w = (getattr(getattr(x, part), name).kernel for x in (ours, base))
            assert lora.scale == 2.0 and np.abs(lora.b).max() > 0
            a, b = (np.asarray(x, np.float64) for x in (lora.a, lora.b))
            np.testing.assert_allclose(
                getattr(getattr(trained, part), name).kernel,
                np.asarray(w, np.float64) + 2.0 * a @ b,
                atol=1e-6,
            )
            np.testing.assert_array_equal(lora.kernel, w)  # the base beside it
        np.testing.assert_array_equal(trained.attn_norm, base.attn_norm)
    np.testing.assert_array_equal(final.embed, pruned.embed)
    figures = record["figures"]
    (after,), (retrained,) = (figures[k]["perplexity"] for k in ("after", "retrained"))
    np.testing.assert_allclose(after["ppl"], ppl(pruned, eval_ids(model, text, 5)), rtol=1e-5)
    assert retrained["ppl"] < 0.9 * after["ppl"]
    size = 3 * 3 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 56))
    assert figures["retrain"]["parameters"] == size and figures["retrain"]["steps"] == 4
    assert figures["retrain"]["tokens"] == 4 * 4 * 31
    rows = [json.loads(line) for line in (workdir / "losses.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]
    # What was pruned is by itself another recipe, which makes the adapter's base.
    before = Recipe.from_json(read_json(workdir / "recipe-pruned.json"))
    same(before.transform()(load(model)), load(workdir / "pruned"))


@pytest.mark.parametrize("kind", ["full", "last_k", "distill"])
def test_kinds_that_train_weights(tmp_path, depth, model, text, kind):
    changes = {"parameters": "full", "hidden_weight": 0.1} if kind == "distill" else {"last_k": 2}
    workdir = tmp_path / "W"
    record = run_config(depth(kind, **changes), workdir)
    final = check_written(workdir, record, model, text, tmp_path)
    (gone,) = (unit["layer"] for unit in record["removed"])
    pruned = named_params(drop_blocks([gone])(load(model)))
    changed = {
        name for name, x in named_params(final).items() if (x != np.asarray(pruned[name])).any()
    }
    last = {"norm.weight", "lm_head.kernel"} | {
        n for n in pruned if n.startswith(("layers.1.", "layers.2."))
    }
    assert changed == (last if kind == "last_k" else set(pruned))
    assert not (workdir / "adapter").exists()
    figures = record["figures"]
    assert figures["retrain"]["parameters"] == sum(pruned[name].size for name in changed)
    (after,), (retrained,) = (figures[k]["perplexity"] for k in ("after", "retrained"))
    assert retrained["ppl"] < after["ppl"]


@pytest.mark.parametrize(
    ("kind", "changes"), [("lora", {}), ("full", {"train": {"weight_decay": 0.5}})]
)
def test_zeros_stay_zero_at_seventy_percent(tmp_path, sparse_config, model, text, kind, changes):
    workdir = tmp_path / "W"
    group = retrain(text, kind, **changes)
    values = sparse_config(sparsity=0.7, compare=(), curve_windows=0, retrain=group)
    record = run_config(values, workdir)
    final = named_params(check_written(workdir, record, model, text, tmp_path))
    recipe = read_json(workdir / "recipe-pruned.json")
    pruned = Recipe.from_json(recipe).transform(workdir / "arrays")(load(model))
    zeros = weights = 0
    for name, before in named_params(pruned).items():
        if "_proj.kernel" not in name:
            continue
        gone, now = np.asarray(before) == 0, np.asarray(final[name])
        assert not now[gone].any(), name
        assert (now[~gone] != np.asarray(before)[~gone]).any(), name
        zeros, weights = zeros + int((now == 0).sum()), weights + now.size
    assert (
        zeros == record["sparsity"]["zeros"] and abs(zeros / weights - 0.7) < 0.02
    )  # the floors of Wanda's rows
    (after,), (retrained,) = (record["figures"][k]["perplexity"] for k in ("after", "retrained"))
    assert retrained["ppl"] < 0.9 * after["ppl"]


def test_only_what_changed_runs_again(tmp_path, depth):
    workdir = tmp_path / "W"
    run_config(depth("last_k"), workdir)
    assert ran(run_config(depth("last_k"), workdir)) == []
    # Keys of other kinds, and those that change no number.
    assert ran(run_config(depth("last_k", alpha=0.9, train={"keep": 3}), workdir)) == []
    tail = ["retrain", "evaluate-retrained", "export", "checkpoint", "report"]
    assert ran(run_config(depth("last_k", last_k=1), workdir)) == tail
    lines = "\n".join(dry_run(depth("last_k", num_windows=5), workdir))
    assert "training-data       to run: num_windows was None, is 5" in lines
    pruned = run_config(depth("none"), workdir)
    assert "retrained" not in pruned["figures"] and "retrain" not in pruned["figures"]
    (step,) = read_json(workdir / "recipe.json")["steps"]
    assert step["op"] == "drop_blocks"
    left = {path.relative_to(workdir).parts[0] for path in workdir.rglob("*") if path.is_file()}
    assert not left & {"losses.jsonl", "training-data", "recipe-pruned.json", "arrays"}
    same(load(workdir / "model"), load(workdir / "checkpoints" / "pruned"))


def test_what_a_run_goes_on_from(tmp_path, config, sparse_config, depth, text):
    """Masks of an earlier run hold in a later one, and its recipe begins with all before."""
    sparse = sparse_config(compare=(), curve_windows=0, retrain=retrain(text, "lora"))
    run_config(sparse, tmp_path / "sparse")
    first = tmp_path / "sparse" / "checkpoints" / "retrained"
    values = depth("full", {"model": str(first)})
    run_config(values, tmp_path / "W")
    recipe = read_json(tmp_path / "W" / "recipe.json")
    ops = ["sparse_weights", "lora_weights", "drop_blocks", "trained_weights"]
    assert [step["op"] for step in recipe["steps"]] == ops
    names = {path.stem for path in (tmp_path / "W" / "arrays").glob("*.safetensors")}
    assert names == set(stored_digests(recipe["steps"]))
    final = load(tmp_path / "W" / "model")
    out = tmp_path / "applied"
    assert main(["apply", f"--recipe={tmp_path / 'W' / 'recipe.json'}", f"--out={out}"]) == 0
    same(load(out), final)
    kept = [origin.index for origin in load(tmp_path / "W" / "checkpoints" / "retrained").origins]
    before, after = named_params(load(first)), named_params(final)
    for place, layer in enumerate(kept):
        for name in ("self_attn.q_proj", "mlp.up_proj"):
            old, new = (
                np.asarray(model[f"layers.{index}.{name}.kernel"])
                for model, index in ((before, layer), (after, place))
            )
            assert (old == 0).mean() > 0.2
            np.testing.assert_array_equal(new == 0, old == 0)
    # And back: what was only pruned is kept whole beside it.
    assert ran(run_config(values, tmp_path / "W")) == []


def test_on_a_mesh(tmp_path, sparse_config, text):
    group = retrain(text, "distill", hidden_weight=0.1, lora={"dropout": 0.0})
    values = sparse_config(
        criterion="magnitude", allocation="uniform", compare=(), curve_windows=0, retrain=group
    )
    values["retrain"]["train"]["micro_batch_size"] = 4
    one = run_config(values, tmp_path / "one")["figures"]
    many = run_config(values | {"mesh": "data:2,fsdp:2,tensor:2"}, tmp_path / "many")["figures"]
    for key in ("loss", "validation_nll"):
        np.testing.assert_allclose(many["retrain"][key], one["retrain"][key], rtol=1e-4)
    for when in ("after", "retrained"):
        (a,), (b,) = (figures[when]["perplexity"] for figures in (one, many))
        np.testing.assert_allclose(b["ppl"], a["ppl"], rtol=1e-4)


def test_instructions_and_epochs(tmp_path, depth, model):
    rows = [
        {"instruction": f"say {i}", "input": "", "output": "the cat sat on the mat " * (1 + i % 2)}
        for i in range(10)
    ]
    file = tmp_path / "alpaca.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokenizer = load_tokenizer(model)
    answers = training_set(find_source(str(file)), tokenizer, 256, loss="answer")
    for row, ids, mask in zip(rows, answers.ids, answers.mask, strict=True):
        assert tokenizer.decode(ids[mask]).strip() == row["output"].strip()
    workdir = tmp_path / "W"
    record = run_config(depth("last_k", data=str(file), window_length=64, epochs=1.5), workdir)
    kept = TrainingSet.load(workdir / "training-data" / "train")
    assert kept.ids.shape == (10, 64)  # one a window, cut at the model's most
    for row, ids in zip(rows, kept.ids, strict=True):
        whole = tokenizer.encode(alpaca_document(row), add_special_tokens=False)
        np.testing.assert_array_equal(ids, [tokenizer.bos_token_id, *whole][:64])
    # 1.5 times 10 windows, 4 a step.
    figures = record["figures"]["retrain"]
    assert (figures["steps"], figures["tokens"]) == (4, 4 * 4 * 63)
    with pytest.raises(InputError, match="1 warm-up steps .* do not fit in 1"):
        run_config(depth("last_k", data=str(file), epochs=0.1), tmp_path / "V")


def test_answers_of_data_without_instructions(tmp_path, depth, text):
    with pytest.raises(InputError, match="text.txt has no rows"):
        run_config(depth("lora", loss="answer"), tmp_path / "W")
    np.savez(tmp_path / "ids.npz", ids=np.ones((3, 16), np.int32))
    with pytest.raises(InputError, match="holds token ids, so answers cannot be told apart"):
        run_config(depth("lora", loss="answer", data=f"{tmp_path / 'ids.npz'}:ids"), tmp_path / "V")


def test_what_it_will_take_is_said_before(tmp_path, depth, model):
    lines = {kind: dry_run(depth(kind), tmp_path / "W")[-1] for kind in ("lora", "full", "none")}
    adapters = 4 * 3 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 56))
    assert f"retraining: at most {count(adapters)} parameters train" in lines["lora"]
    assert f"at most {count(count_params(load(model)))} parameters train" in lines["full"]
    assert not lines["none"].startswith("retraining")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "lorra"}, "unknown retrain.kind 'lorra'.* did you mean 'lora'"),
        ({"data": None}, "retraining by lora reads data: give --config.retrain.data=SOURCE"),
        ({"los": "all"}, "did you mean 'retrain.loss'"),
        ({"loss": "answers"}, "did you mean 'answer'"),
        ({"lora": {"rank": 0}}, "'retrain.lora.rank' takes an integer from 1 on, not 0"),
        ({"lora": {"rnk": 1}}, "did you mean 'retrain.lora.rank'"),
        ({"train": {"step": 1}}, "did you mean 'retrain.train.steps'"),
        ({"train": {"warmup_steps": 9}}, "9 warm-up steps .* do not fit in 4"),
        ({"last_k": 0}, "'retrain.last_k' takes an integer from 1 on, not 0"),
        ({"temperature": 0.0}, "'retrain.temperature' takes a number above 0, not 0"),
        ({"alpha": 1.5}, "'retrain.alpha' takes 0 to 1, not 1.5"),
        ({"epochs": 0.0}, "'retrain.epochs' takes a number above 0, not 0"),
        ({"parameters": "last_k"}, "unknown retrain.parameters 'last_k'"),
        ({"window_length": 1}, "'retrain.window_length' takes an integer from 2 on, not 1"),
    ],
)
def test_bad_keys(config, text, changes, message):
    values = config(retrain=retrain(text, **{"kind": "lora"} | changes))
    del values["job"]
    with pytest.raises(InputError, match=message):
        depth_config(values)


def test_what_is_refused_of_a_model(tmp_path, depth):
    with pytest.raises(InputError, match="the last 4 blocks cannot train: .* has 3; .*last_k"):
        run_config(depth("last_k", last_k=4), tmp_path / "W")
    (tmp_path / "short.txt").write_text("a cat")
    with pytest.raises(InputError, match="short.txt: not one window of 32 tokens to train on"):
        run_config(depth("lora", data=str(tmp_path / "short.txt")), tmp_path / "V")
