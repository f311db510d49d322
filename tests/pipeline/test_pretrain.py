"""The pretraining job: what it trains on, what it writes, what it does not do twice."""

import pathlib
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jprune.checkpoints import Tokenizer, load, load_checkpoint, load_tokenizer
from jprune.cli.configs import load_config
from jprune.core.errors import InputError, Interrupted
from jprune.core.files import as_path, read_json
from jprune.data import document_windows, documents, evaluation_windows, spread
from jprune.llama import forward, unstack
from jprune.pipeline.job import dry_run, run_config
from jprune.pipeline.pretrain_config import pretrain_config
from tests.retrain.short_run import send_at

ASSETS = pathlib.Path(__file__).resolve().parents[2] / "jprune" / "assets" / "demo-llama"
STAGES = ["tokenizer", "windows", "train", "evaluate", "export"]


def ran(record):
    return [stage["name"] for stage in record["stages"] if stage["status"] == "done"]


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    """A file to train on, two documents of it, and one that is held out."""
    folder = tmp_path_factory.mktemp("texts")
    words = np.random.default_rng(0).choice(["def", "return", "x", "y", "\n    "], (3, 400))
    train = "\n".join(f'{{"text": {" ".join(line)!r}}}'.replace("'", '"') for line in words[:2])
    (folder / "train.jsonl").write_text(train)
    (folder / "held_out.txt").write_text(" ".join(words[2]))
    return folder


@pytest.fixture
def config(texts):
    def make(**changes):
        train = {
            "steps": 6,
            "batch_size": 4,
            "learning_rate": 0.01,
            "warmup_steps": 1,
            "checkpoint_every": 2,
        }
        return {
            "job": "pretrain",
            "name": "small",
            "data": str(texts / "train.jsonl"),
            "eval": (str(texts / "held_out.txt"),),
            "vocab_size": 270,
            "architecture": {
                "num_hidden_layers": 2,
                "hidden_size": 16,
                "intermediate_size": 24,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "max_position_embeddings": 32,
            },
            "train": train | changes.pop("train", {}),
            "validation_windows": 3,
            "eval_windows": 4,
        } | changes

    return make


@pytest.fixture(scope="module")
def finished(tmp_path_factory, texts):
    """A finished workdir and its run.json."""
    workdir = tmp_path_factory.mktemp("finished") / "W"
    return workdir, run_config(config.__wrapped__(texts)(), workdir, name="test")


def test_model_and_figures(finished, texts):
    workdir, record = finished
    assert ran(record) == STAGES
    assert record == read_json(workdir / "run.json")
    exported = load_checkpoint(workdir / "model")
    assert exported.llama.num_layers == 2
    assert exported.llama.embed.shape == (270, 16)
    ids = evaluation_windows(str(texts / "held_out.txt"), exported.tokenizer, 32, 4)
    logp = np.asarray(jax.nn.log_softmax(forward(exported.llama, jnp.asarray(ids))[:, :-1]))
    expected = np.exp(-np.take_along_axis(logp, ids[:, 1:, None], -1).mean())
    (figure,) = record["figures"]["after"]["perplexity"]
    np.testing.assert_allclose(figure["ppl"], expected, rtol=1e-5)
    assert figure["protocol"]["bos"] == "first" and figure["protocol"]["num_windows"] == 4
    assert record["figures"]["train"]["tokens"] == 6 * 4 * 31
    assert read_json(workdir / "model" / "config.json")["dtype"] == "bfloat16"
    trained = unstack(load(workdir / "checkpoints" / "trained"))
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), trained)
    for ours, theirs in zip(jax.tree.leaves(exported.llama), jax.tree.leaves(rounded), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    card = (workdir / "model" / "README.md").read_text()
    assert f"| {figure['ppl']:.4g} |" in card and "6 steps of 4 windows" in card
    generation = read_json(workdir / "model" / "generation_config.json")
    assert generation == {"bos_token_id": 1, "eos_token_id": 2}


def test_windows_are_whole_documents_end_to_end(finished, texts):
    workdir, record = finished
    tokenizer = load_tokenizer(workdir / "model")
    ids = []
    for text in documents(str(texts / "train.jsonl")):
        ids += [1, *tokenizer.encode(text), 2]
        assert tokenizer.decode(tokenizer.encode(text)) == text
    with np.load(workdir / "windows.npz") as windows:
        flat = windows["train"].reshape(-1)
        assert len(flat) == len(ids) // 32 * 32
        np.testing.assert_array_equal(flat, ids[: len(flat)])
        assert windows["validation"].shape[1] == 32 and 1 <= len(windows["validation"]) <= 3


def test_only_what_changed_runs_again(tmp_path, config):
    workdir = tmp_path / "W"
    record = run_config(config(), workdir)
    weights = (workdir / "model" / "model.safetensors").read_bytes()
    assert ran(run_config(config(train={"checkpoint_every": 3}), workdir)) == []
    assert ran(run_config(config(eval_windows=2), workdir)) == ["evaluate", "export"]
    lines = "\n".join(dry_run(config(eval_windows=2, train={"steps": 7}), workdir))
    assert "windows" in lines and "train.steps" not in lines
    again = run_config(config(train={"steps": 7}), workdir)
    assert ran(again) == ["train", "evaluate", "export"]
    assert again["figures"]["train"]["steps"] == 7
    assert (workdir / "model" / "model.safetensors").read_bytes() != weights
    assert ran(run_config(config(), workdir)) == ["train", "evaluate", "export"]
    assert (workdir / "model" / "model.safetensors").read_bytes() == weights
    assert record["figures"] == read_json(workdir / "run.json")["figures"]


def test_interrupted_training_goes_on(tmp_path, config, finished, monkeypatch):
    with monkeypatch.context() as patch:
        send_at(signal.SIGTERM, 2, patch)
        with pytest.raises(Interrupted):
            run_config(config(), tmp_path)
    assert not (tmp_path / "model").exists()
    seen = []
    with monkeypatch.context() as patch:
        send_at(0, 2, patch)  # signal 0 is none: it would be sent if step 2 ran again
        patch.setattr("os.kill", lambda pid, number: seen.append(number))
        run_config(config(), tmp_path)
    assert seen == []
    whole, _ = finished
    for name in ("losses.jsonl", "model/model.safetensors", "model/README.md"):
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 6}, "unknown config key 'steps'"),
        ({"train": {"learning_rat": 1}}, "did you mean 'train.learning_rate'"),
        ({"architecture": {}}, "config key 'architecture.num_hidden_layers' is missing"),
        ({"eval": ()}, "nothing to evaluate on"),
        ({"protocol": "gpt"}, "did you mean 'gptq'"),
        ({"dtype": "float31"}, "float32"),
        ({"validation_windows": 0}, "'validation_windows' takes an integer from 1 on, not 0"),
        ({"validation_windows": None}, "'validation_windows' takes .* not None"),
        ({"vocab_size": None}, "'vocab_size' takes an integer from 259 on, not None"),
        ({"eval_windows": 0}, "'eval_windows' takes an integer from 1 on"),
        ({"data": None}, "'data' takes a string, not None"),
        ({"seed": None}, "'seed' takes an integer from 0 on, not None"),
        ({"train": {"remat": None}}, "'train.remat' takes true or false, not None"),
        ({"seed": -1}, "'seed' takes an integer from 0 on"),
        ({"train": {"steps": None}}, "'train.steps' takes an integer from 1 on, not None"),
        ({"train": {"batch_size": 2.5}}, "'train.batch_size' takes an integer"),
        ({"train": {"warmup_steps": None}}, "'train.warmup_steps' takes an integer from 0 on"),
        ({"train": {"learning_rate": None}}, "'train.learning_rate' takes a number from 0 on"),
        ({"train": {"warmup_steps": 7}}, "7 warm-up steps .* do not fit in 6"),
    ],
)
def test_bad_keys(config, changes, message):
    values = config(**changes)
    del values["job"]
    with pytest.raises(InputError, match=message):
        pretrain_config(values)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_hidden_layers": 0}, "'architecture.num_hidden_layers' takes .* from 1 on, not 0"),
        ({"hidden_size": None}, "'architecture.hidden_size' takes an integer from 1 on, not None"),
        ({"rope_theta": None}, "'architecture.rope_theta' takes a number from 0 on, not None"),
    ],
)
def test_sizes_that_cannot_be(config, sizes, message):
    values = config()
    del values["job"]
    values["architecture"] |= sizes
    with pytest.raises(InputError, match=message):
        pretrain_config(values)


def test_optional_numbers_may_be_left_out(config):
    values = config(eval_windows=None, train={"micro_batch_size": None, "clip_norm": None})
    del values["job"]
    assert pretrain_config(values).eval_windows is None


def test_heads_must_divide_the_hidden_size(config):
    values = config()
    del values["job"]
    values["architecture"] |= {"num_attention_heads": 3}
    with pytest.raises(InputError, match="hidden_size 16 does not give each of 3 heads"):
        pretrain_config(values)


def test_too_little_text(tmp_path, config):
    (tmp_path / "short.txt").write_text("x = 1")
    with pytest.raises(InputError, match="not one window of 32 tokens to train on"):
        run_config(config(data=str(tmp_path / "short.txt")), tmp_path / "W")


def test_document_windows_and_spread():
    class Letters(Tokenizer):
        bos_token_id, eos_token_id = 1, 2

        def encode(self, text, add_special_tokens=False):
            return [ord(letter) for letter in text]

    letters = Letters(as_path("nowhere"))
    windows = document_windows(["abc", "", "d"], letters, 3)
    assert windows.tolist() == [[1, 97, 98], [99, 2, 1], [2, 1, 100]]
    assert document_windows([], letters, 3).shape == (0, 3)
    assert spread(np.arange(10)[:, None], 4)[:, 0].tolist() == [0, 3, 6, 9]
    assert spread(np.arange(3)[:, None], 4)[:, 0].tolist() == [0, 1, 2]


def test_bundled_model_is_the_one_of_the_config():
    config = load_config("demo_pretrain").to_dict()
    assert config.pop("job") == "pretrain"
    sizes = pretrain_config(config).architecture
    llama = load(ASSETS)
    assert llama.num_layers == sizes.num_hidden_layers >= 12
    assert llama.config.max_position_embeddings == sizes.max_position_embeddings
    assert llama.blocks[0].mlp.gate.kernel.shape == (sizes.hidden_size, sizes.intermediate_size)
    assert llama.embed.shape[0] == config["vocab_size"]
    assert (ASSETS / "model.safetensors").stat().st_size < 8e6
    assert read_json(ASSETS / "config.json")["dtype"] == "bfloat16"


@pytest.mark.parity
def test_bundled_model_in_transformers():
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = transformers.AutoModelForCausalLM.from_pretrained(ASSETS, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(ASSETS)
    text = "import os\n\n\ndef main(argv):\n    return os.path.join(*argv)\n"
    ids = tokenizer(text)["input_ids"]
    assert ids == [1, *load_tokenizer(ASSETS).encode(text)]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits.numpy()
    ours = forward(load(ASSETS), jnp.asarray([ids]))
    np.testing.assert_allclose(ours, expected, atol=2e-4)


def test_the_same_on_an_object_store(gcs, finished, config):
    gcs.visible = True
    workdir, record = finished
    again = run_config(config(), "gs://bucket/W", name="test")
    assert again["figures"] == record["figures"]
    for name in ("model/model.safetensors", "model/tokenizer.json", "losses.jsonl"):
        assert gcs.objects[f"W/{name}"] == (workdir / name).read_bytes(), name
    assert ran(run_config(config(), "gs://bucket/W", name="test")) == []
