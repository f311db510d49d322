"""`jprune merge`: the methods on whole models, and what is refused."""

import shutil

import jax
import numpy as np
import pytest

from jprune.checkpoints import export_huggingface, load, load_checkpoint
from jprune.llama import to_params
from jprune.transforms import merge_models
from tests.tiny import finetunes, tiny

FLAGS = {
    "linear": ["--weights=3,1,1"],
    "task_arithmetic": ["--factor=0.3"],
    "ties": ["--density=0.4", "--factor=0.9"],
    "dare": ["--density=0.5", "--then=ties", "--seed=3"],
    "breadcrumbs": ["--density=0.6", "--gamma=0.1"],
    "model_stock": [],
}


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, to_params(a), to_params(b))


@pytest.fixture(scope="module")
def folders(model, tmp_path_factory):
    """The folders of a base and two finetunes of it, math and code."""
    folder = tmp_path_factory.mktemp("merge")
    shutil.copytree(model, folder / "base")
    for name, llama in zip(("math", "code"), finetunes(load(model), "math", "code"), strict=True):
        export_huggingface(folder / name, llama)
    export_huggingface(folder / "other", tiny(4, vocab_size=200))
    return folder


def options(flags):
    found = dict(flag.removeprefix("--").split("=") for flag in flags)
    if "weights" in found:
        found["weights"] = [float(w) for w in found["weights"].split(",")]
    numbers = {"factor": float, "density": float, "gamma": float, "seed": int}
    return {key: numbers.get(key, lambda x: x)(value) for key, value in found.items()}


@pytest.mark.parametrize("method", FLAGS)
def test_methods(jprune, folders, tmp_path, method):
    base, math, code = (load(folders / name) for name in ("base", "math", "code"))
    out = tmp_path / "merged"
    status, printed, _ = jprune(
        "merge", f"--model={folders / 'base'}", f"--variants={folders / 'math'},{folders / 'code'}",
        f"--method={method}", f"--out={out}", *FLAGS[method],
    )  # fmt: skip
    assert status == 0 and f"{method} of base, math, code" in printed
    given = options(FLAGS[method])
    if method == "linear":
        expected = merge_models([base, math, code], method, **given)
    else:
        expected = merge_models([math, code], method, base=base, **given)
    same(load(out), expected)
    assert load_checkpoint(out).tokenizer.encode("the cat")
    again = tmp_path / "again"
    assert jprune("apply", f"--recipe={out / 'recipe.json'}", f"--out={again}")[0] == 0
    same(load(again), expected)


def test_slerp_of_some_layers(jprune, folders, tmp_path):
    out = tmp_path / "merged"
    status, _, err = jprune(
        "merge", f"--model={folders / 'math'}", f"--variants={folders / 'code'}",
        "--method=slerp", "--t=0.25", "--layers=1-2", f"--out={out}", "--to=orbax",
    )  # fmt: skip
    assert status == 0, err
    math, code = (load(folders / name) for name in ("math", "code"))
    same(load(out), merge_models([math, code], "slerp", t=0.25, layers="1-2"))
    np.testing.assert_array_equal(load(out).blocks[0].attn.q.kernel, math.blocks[0].attn.q.kernel)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--method=teis"], "did you mean 'ties'"),
        (["--method=ties", "--density=2"], r"density of ties is 2.0; it is the share"),
        (["--method=ties"], "ties needs density"),
        (["--method=linear", "--t=0.1"], "unknown option of linear 't'"),
        (["--method=linear", "--weights=1,x"], "--weights are numbers such as 2,1, not 1,x"),
        (["--method=linear", "--weights=1,2"], "weights of linear are 2 numbers for 3 models"),
        (["--method=slerp"], "slerp merges exactly 2 models, not 3"),
        (["--method=dare", "--density=0.5", "--then=tie"], "then of dare is 'tie'"),
        (["--method=linear", "--ends=bases"], "did you mean --ends=base"),
        (["--method=linear", "--vocab=intersct"], "did you mean --vocab=intersect"),
        (["--method=linear", "--layers=9"], "outside this model"),
        ([], "--method=... is missing"),
    ],
)
def test_refusals(refused, folders, tmp_path, flags, message):
    import re

    line = refused(
        "merge", f"--model={folders / 'base'}", f"--variants={folders / 'math'},{folders / 'code'}",
        f"--out={tmp_path / 'out'}", *flags,
    )  # fmt: skip
    assert re.search(message, line), line
    assert not (tmp_path / "out").exists()


def test_models_that_do_not_fit(refused, folders, tmp_path):
    common = [f"--model={folders / 'base'}", "--method=linear", f"--out={tmp_path / 'out'}"]
    line = refused("merge", f"--variants={folders / 'other'}", *common)
    assert "base and other differ in vocabulary size: 300 and 200" in line
    assert "--variants=... is missing" in refused("merge", *common)
    over = [f"--model={folders / 'base'}", "--method=linear", f"--out={folders / 'math'}"]
    assert "would overwrite the model" in refused("merge", f"--variants={folders / 'math'}", *over)
