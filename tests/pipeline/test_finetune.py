"""The finetuning job: what trains, what it writes, what a killed run repeats, what is refused."""

import json
import os
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jprune.checkpoints import export_huggingface, load, load_checkpoint, load_tokenizer, save
from jprune.core.errors import InputError
from jprune.core.files import read_json
from jprune.data import documents
from jprune.llama import Masked, forward
from jprune.llama.kernels import Lora
from jprune.pipeline.finetune_config import finetune_config
from jprune.pipeline.job import dry_run, run_config
from jprune.scores import sparsify
from jprune.transforms import Recipe
from tests.cli.conftest import jprune  # noqa: F401  (a fixture)
from tests.pipeline.runs import eval_ids, ppl, ran
from tests.tiny import tiny, windows

STAGES = ["windows", "evaluate-before", "train", "evaluate-after", "card", "report"]
SCRIPT = textwrap.dedent(
    """
    import json, signal, sys
    from jprune.pipeline.job import run_config
    from tests.retrain.short_run import send_at

    send_at(signal.SIGKILL, int(sys.argv[3]))
    run_config(json.loads(sys.argv[1]), sys.argv[2])
    """
)


def make_config(model, text, /, **changes):
    train = {
        "steps": 6,
        "batch_size": 4,
        "micro_batch_size": 2,
        "learning_rate": 0.02,
        "warmup_steps": 1,
        "checkpoint_every": 2,
    }
    lora = {"rank": 3, "alpha": 6.0, "dropout": 0.1}
    return {
        "job": "finetune",
        "model": str(model),
        "data": str(text),
        "eval": (str(text),),
        "window_length": 32,
        "validation_windows": 3,
        "eval_windows": 4,
        "lora": lora | changes.pop("lora", {}),
        "train": train | changes.pop("train", {}),
    } | changes


@pytest.fixture
def config(model, text):
    """A function (changes) -> config of a run that takes a few seconds."""
    return lambda **changes: make_config(model, text, **changes)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, model, text):
    """A finished workdir and its run.json."""
    workdir = tmp_path_factory.mktemp("finished") / "W"
    return workdir, run_config(make_config(model, text), workdir, name="test")


def test_the_adapter_and_its_figures(finished, model, text):
    workdir, record = finished
    assert ran(record) == STAGES
    assert record == read_json(workdir / "run.json")
    ids, base = eval_ids(model, text, 4), load(model)
    for when, llama in (("before", base), ("after", load(workdir / "adapter"))):
        (figure,) = record["figures"][when]["perplexity"]
        np.testing.assert_allclose(figure["ppl"], ppl(llama, ids), rtol=1e-5)
    assert record["figures"]["after"]["perplexity"][0]["ppl"] < 0.9 * ppl(base, ids)
    assert record["figures"]["train"]["tokens"] == 6 * 4 * 31
    kept = load(workdir / "adapter", adapters="keep")
    for block in kept.blocks:
        for kernel in (block.attn.q.kernel, block.mlp.down.kernel):
            assert isinstance(kernel, Lora) and (kernel.scale, kernel.dropout) == (2.0, 0.1)
    np.testing.assert_array_equal(kept.blocks[3].mlp.up.kernel.kernel, base.blocks[3].mlp.up.kernel)
    np.testing.assert_array_equal(kept.embed, base.embed)
    # Three for each input and output of the seven projections of four blocks.
    count = 4 * 3 * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 56))
    assert record["adapter"] == {"name": "tiny-lora", "parameters": count}
    own, bases = load_checkpoint(workdir / "adapter").tokenizer, load_tokenizer(model)
    assert own.encode("a cat") == bases.encode("a cat")


def test_what_lies_beside_it(finished, model, text):
    workdir, record = finished
    values = read_json(workdir / "adapter" / "adapter_config.json")
    assert values["base_model_name_or_path"] == str(model)
    assert (values["r"], values["lora_alpha"]) == (3, 6)
    origin = read_json(workdir / "adapter" / "jprune_adapter.json")
    assert origin["base"]["name"] == "tiny" and origin["data"] == str(text)
    card = (workdir / "adapter" / "README.md").read_text()
    (before,), (after,) = (record["figures"][k]["perplexity"] for k in ("before", "after"))
    assert f"| {before['ppl']:.4g} | {after['ppl']:.4g} |" in card
    assert "rank 3 (alpha 6" in card and "6 steps of 4 windows" in card
    history = [json.loads(line) for line in (workdir / "losses.jsonl").read_text().splitlines()]
    assert [row["step"] for row in history if "loss" in row] == [1, 2, 3, 4, 5, 6]
    assert f"{after['ppl']:.4g}" in (workdir / "report.html").read_text()


def test_windows_are_whole_documents_end_to_end(finished, model, text):
    tokenizer = load_tokenizer(model)
    ids = []
    for one in documents(str(text)):
        ids += [tokenizer.bos_token_id, *tokenizer.encode(one), tokenizer.eos_token_id]
    with np.load(finished[0] / "windows.npz") as found:
        flat = found["train"].reshape(-1)
        assert found["train"].shape[1] == found["validation"].shape[1] == 32
        np.testing.assert_array_equal(flat, ids[: len(flat)])
        assert len(ids) - len(flat) < 32 and 1 <= len(found["validation"]) <= 3


def test_only_what_changed_runs_again(tmp_path, config, steps_run):
    workdir = tmp_path / "W"
    run_config(config(), workdir)
    assert ran(run_config(config(train={"checkpoint_every": 3}), workdir)) == []
    fewer = run_config(config(eval_windows=2), workdir)
    assert ran(fewer) == ["evaluate-before", "evaluate-after", "card", "report"]
    steps_run.clear()
    # The numbers are there: they are only saved in another form.
    changes = {"eval_windows": 2, "adapter_dtype": "bfloat16", "export_folded": True}
    again = run_config(config(**changes), workdir)
    assert ran(again) == ["train", "evaluate-after", "card", "export", "report"] and steps_run == []
    kept = load(workdir / "adapter", "checkpoint", adapters="keep")
    assert kept.blocks[0].attn.q.kernel.a.dtype == jnp.bfloat16
    lines = "\n".join(dry_run(config(**changes, lora={"rank": 2}), workdir))
    assert "train            to run: lora was" in lines and "in adapters, which train" in lines
    # The folded model is the adapter on its base, and the recipe says so.
    folded, adapted = load(workdir / "model"), load(workdir / "adapter")
    for ours, theirs in zip(jax.tree.leaves(folded), jax.tree.leaves(adapted), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    recipe = Recipe.from_json(read_json(workdir / "model" / "recipe.json"))
    (source,) = recipe.sources
    assert source["path"] == str(workdir / "adapter")
    assert source["sha256"] == load_checkpoint(workdir / "adapter").sha256
    figure = again["figures"]["after"]["perplexity"][0]["ppl"]
    assert f"{figure:.4g}" in (workdir / "model" / "README.md").read_text()


def test_a_killed_run_goes_on_to_the_same_losses(tmp_path, config, finished, steps_run):
    command = [sys.executable, "-c", SCRIPT, json.dumps(config()), str(tmp_path / "W"), "5"]
    path = os.pathsep.join(filter(None, [os.getcwd(), *sys.path]))
    environment = os.environ | {"PYTHONPATH": path, "JPRUNE_TYPECHECK": "0"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (tmp_path / "W" / "adapter").exists()
    record = run_config(config(), tmp_path / "W", name="test")
    assert steps_run == [4, 5]  # four were saved
    whole, expected = finished
    assert record["figures"] == expected["figures"]
    for name in ("losses.jsonl", "adapter/adapter_model.safetensors", "adapter/README.md"):
        assert (tmp_path / "W" / name).read_bytes() == (whole / name).read_bytes(), name


def test_a_sparse_base_stays_sparse(tmp_path, config):
    llama = tiny(2)
    mlp = llama.blocks[1].mlp
    mask = np.random.default_rng(0).random(mlp.up.kernel.shape) < 0.5
    up = mlp.up.replace(kernel=Masked(mlp.up.kernel, jnp.asarray(mask)))
    block = llama.blocks[1].replace(mlp=mlp.replace(up=up))
    save(tmp_path / "sparse", llama.replace(blocks=(llama.blocks[0], block)))
    np.savez(tmp_path / "ids.npz", ids=windows(6, 16))
    data = f"{tmp_path / 'ids.npz'}:ids"  # ids need no tokenizer, and no window length
    changes = {"model": str(tmp_path / "sparse"), "data": data, "eval": data}
    run_config(config(**changes, export_folded=True, train={"steps": 2}), tmp_path / "W")
    after = np.asarray(load(tmp_path / "W" / "model").blocks[1].mlp.up.kernel)
    assert not after[~mask].any()
    assert (after != np.asarray(mlp.up.kernel))[mask].all()


def test_a_base_with_zeros_in_plain_kernels_stays_sparse(tmp_path, config):
    base = sparsify(tiny(2), "magnitude", density=0.5).llama
    save(tmp_path / "sparse", base)
    np.savez(tmp_path / "ids.npz", ids=windows(6, 16))
    data = f"{tmp_path / 'ids.npz'}:ids"
    changes = {"model": str(tmp_path / "sparse"), "data": data, "eval": data}
    record = run_config(config(**changes, train={"steps": 2}), tmp_path / "W")
    adapted = load(tmp_path / "W" / "adapter")
    for old, new in zip(base.blocks, adapted.blocks, strict=True):
        before, after = np.asarray(old.mlp.up.kernel), np.asarray(new.mlp.up.kernel)
        np.testing.assert_array_equal(after == 0, before == 0)
        assert (after != before).any()
    # What trained is what is loaded: the validation loss is of the masked sum.
    expected = np.log(ppl(adapted, windows(6, 16)[::2]))
    np.testing.assert_allclose(record["figures"]["train"]["validation_nll"], expected, rtol=1e-5)


def test_on_a_mesh(tmp_path, config):
    """The losses of one device, also by a run that goes on from a checkpoint."""
    export_huggingface(tmp_path / "model", tiny(2, vocab_size=96))
    np.savez(tmp_path / "ids.npz", ids=windows(8, 16, vocab=96))
    data = f"{tmp_path / 'ids.npz'}:ids"
    changes = {"model": str(tmp_path / "model"), "data": data, "eval": data}
    changes |= {"train": {"micro_batch_size": 4}, "lora": {"dropout": 0.0}}

    def losses(workdir, **more):
        run_config(config(**changes, **more), workdir)
        rows = [json.loads(line) for line in (workdir / "losses.jsonl").read_text().splitlines()]
        return [row.get("loss", row.get("validation_nll")) for row in rows]

    alone = losses(tmp_path / "alone")
    mesh = "data:2,fsdp:2,tensor:2"
    np.testing.assert_allclose(losses(tmp_path / "mesh", mesh=mesh), alone, rtol=1e-5)
    (last,) = (tmp_path / "mesh" / "checkpoints").glob("*/steps/6")
    last.rename(tmp_path / "away")
    (tmp_path / "mesh" / "losses.jsonl").unlink()
    np.testing.assert_allclose(losses(tmp_path / "mesh", mesh=mesh), alone, rtol=1e-5)


def test_the_command_says_where_the_adapter_is(jprune, finished, config, text):  # noqa: F811
    workdir, values = finished[0], config()
    flags = [f"--config.{key}={values[key]}" for key in ("model", "data", "window_length")]
    flags += [f"--config.eval={text}", "--config.validation_windows=3", "--config.eval_windows=4"]
    for group in ("lora", "train"):
        flags += [f"--config.{group}.{key}={value}" for key, value in values[group].items()]
    flags += ["--config.train.weight_decay=0.1", "--config.train.b2=0.95"]
    flags += ["--config.train.validate_every=0"]
    status, out, err = jprune("run", "--config=finetune", f"--workdir={workdir}", *flags)
    assert status == 0 and err.count(": cached") == 6
    assert "after" in out and f"--model={workdir / 'adapter'}" in err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": None}, "which model"),
        ({"data": ""}, "nothing to train on: give --config.data=SOURCE"),
        ({"eval": ()}, "nothing to evaluate on"),
        ({"lora": {"rnk": 2}}, "did you mean 'lora.rank'"),
        ({"lora": {"rank": 0}}, "'lora.rank' takes an integer from 1 on, not 0"),
        ({"lora": {"dropout": 1.5}}, "dropout takes a number from 0 on and below 1"),
        ({"lora": {"targets": ("q_prj",)}}, "did you mean 'q_proj'"),
        ({"train": {"learning_rat": 1}}, "did you mean 'train.learning_rate'"),
        ({"train": {"warmup_steps": 7}}, "7 warm-up steps .* do not fit in 6"),
        ({"window_length": 1}, "'window_length' takes an integer from 2 on, not 1"),
        ({"num_windows": 0}, "'num_windows' takes an integer from 1 on, not 0"),
        ({"protocol": "gpt"}, "did you mean 'gptq'"),
        ({"adapter_dtype": "float31"}, "did you mean 'float32'"),
        ({"dtype": "float31"}, "did you mean 'float32'"),
        ({"export_folded": 1}, "'export_folded' takes true or false, not 1"),
        ({"steps": 6}, "unknown config key 'steps'"),
    ],
)
def test_bad_keys(config, changes, message):
    values = config(**changes)
    del values["job"]
    with pytest.raises(InputError, match=message):
        finetune_config(values)


def test_what_is_refused(tmp_path, config, finished, model):
    adapter = finished[0] / "adapter"
    with pytest.raises(InputError, match=f"is an adapter itself; export it first .*={adapter}"):
        run_config(config(model=str(adapter)), tmp_path / "W")
    save(tmp_path / "kept", load(adapter, adapters="keep"))
    with pytest.raises(InputError, match="has an adapter already; fold it first"):
        run_config(config(model=str(tmp_path / "kept")), tmp_path / "W")
    export_huggingface(tmp_path / "mute", load(model))
    with pytest.raises(InputError, match="the model has no tokenizer, so .* cannot be tokenised"):
        run_config(config(model=str(tmp_path / "mute")), tmp_path / "W")
    (tmp_path / "short.txt").write_text("a cat")
    with pytest.raises(InputError, match="not one window of 32 tokens to train on"):
        run_config(config(data=str(tmp_path / "short.txt")), tmp_path / "V")
    np.savez(tmp_path / "ids.npz", ids=np.full((3, 16), 300))
    with pytest.raises(InputError, match="token id 300 .* vocabulary of 300"):
        run_config(config(data=f"{tmp_path / 'ids.npz'}:ids"), tmp_path / "V")


def test_at_most_so_many_windows(tmp_path, config):
    run_config(config(num_windows=5), tmp_path, until="windows")
    with np.load(tmp_path / "windows.npz") as found:
        assert found["train"].shape == (5, 32)


@pytest.mark.parity
def test_peft_computes_the_same(finished):
    torch, peft = pytest.importorskip("torch"), pytest.importorskip("peft")
    adapter = finished[0] / "adapter"
    found = peft.AutoPeftModelForCausalLM.from_pretrained(adapter, dtype=torch.float32).eval()
    ids = windows(2, 24, vocab=300)
    with torch.no_grad():
        expected = found(torch.tensor(ids, dtype=torch.long)).logits.numpy()
    np.testing.assert_allclose(forward(load(adapter), jnp.asarray(ids)), expected, atol=2e-4)
