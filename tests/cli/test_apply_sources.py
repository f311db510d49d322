"""`jprune apply` of merges and stitches: recipes that have several sources."""

import json
import os
import shutil

import numpy as np
import pytest

from jprune.checkpoints import export_huggingface, load, load_checkpoint
from jprune.llama import named_params
from jprune.transforms import Recipe, StitchPlan, chain, drop_blocks, merge, stitch
from tests.llama.test_stack import same
from tests.tiny import finetunes

PLAN = StitchPlan.from_json(
    [{"layer": 0, "variants": [1]}, {"layer": 1}, {"layer": 3, "variants": [0, 1], "factor": 0.4}]
)
STEPS = {
    "merge": lambda indices, sources: merge(
        "dare", indices, density=0.5, seed=7, then="ties", sources=sources
    ),
    "stitch": lambda indices, sources: stitch(PLAN, indices, sources=sources),
}


@pytest.fixture(scope="module")
def sources(model, tmp_path_factory):
    """The folders of a base and two finetunes of it."""
    folder = tmp_path_factory.mktemp("sources")
    shutil.copytree(model, folder / "base")
    for name, llama in zip(("math", "code"), finetunes(load(model), "math", "code"), strict=True):
        export_huggingface(folder / name, llama)
    return folder


@pytest.fixture
def made(sources, tmp_path):
    """Makes a model from the sources, and gives its folder and the model."""

    def make(kind):
        base, *others = (load_checkpoint(sources / name) for name in ("base", "math", "code"))
        cut = drop_blocks([2])
        recipe, indices = Recipe.of(base).with_sources(*others)
        assert indices == [1, 2]
        llamas = {index: other.llama for index, other in zip(indices, others, strict=True)}
        transform = chain(STEPS[kind](indices, llamas), cut)
        llama = transform(base.llama)
        export_huggingface(tmp_path / kind, llama, base.tokenizer, recipe.then(transform).to_json())
        return tmp_path / kind, llama

    return make


@pytest.mark.parametrize("kind", STEPS)
def test_rebuilt_identically(jprune, made, tmp_path, kind):
    folder, llama = made(kind)
    again = tmp_path / "again"
    status, out, _ = jprune("apply", f"--recipe={folder / 'recipe.json'}", f"--out={again}")
    assert status == 0 and "base after 2 steps of" in out
    assert (again / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()
    assert json.loads((again / "recipe.json").read_text()) == json.loads(
        (folder / "recipe.json").read_text()
    )
    found, expected = named_params(load(again)), named_params(llama)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in found)
    assert '- "base"\n- "math"\n- "code"' in (again / "README.md").read_text()


def test_a_model_that_is_stitched_goes_on(jprune, made, sources, tmp_path):
    """A recipe goes on with more sources; those that it has keep their index."""
    folder, llama = made("stitch")
    checkpoint = load_checkpoint(folder)
    code = load_checkpoint(sources / "code")
    small = tmp_path / "small"
    export_huggingface(small, finetunes(llama, "small")[0])
    recipe, indices = Recipe.of(checkpoint).with_sources(load_checkpoint(small), code)
    assert indices == [3, 2]
    assert [source["name"] for source in recipe.sources] == ["base", "math", "code", "small"]
    step = merge("linear", [0, 3], weights=[3, 1], sources={3: load(small)})
    last = step(checkpoint.llama)
    (tmp_path / "r.json").write_text(json.dumps(recipe.then(step).to_json()))
    again = tmp_path / "again"
    assert jprune("apply", f"--recipe={tmp_path / 'r.json'}", f"--out={again}")[0] == 0
    found, expected = named_params(load(again)), named_params(last)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_sources_that_moved(jprune, refused, made, sources, tmp_path):
    folder, _ = made("merge")
    content = json.loads((folder / "recipe.json").read_text())
    for number, source in enumerate(content["sources"][1:]):
        os.symlink(source["path"], tmp_path / f"s{number}")
        source["path"] = str(tmp_path / "gone")
    recipe = tmp_path / "r.json"
    recipe.write_text(json.dumps(content))
    argv = ("apply", f"--recipe={recipe}", f"--out={tmp_path / 'a'}")
    assert refused(*argv).startswith(f"no such checkpoint: {tmp_path / 'gone'}")
    s0, s1 = tmp_path / "s0", tmp_path / "s1"
    message = refused(*argv, f"--sources={s0}")
    assert message.startswith("--sources names 1 models, but ")
    assert message.endswith("has 2 sources after the first (math, code); give one for each")
    message = refused(*argv, f"--sources={s1},{s0}")
    assert f"{s1} is not the source of {recipe}: its SHA-256 is" in message
    assert message.endswith("give the right math with --sources=...")
    assert not (tmp_path / "a").exists()
    assert jprune(*argv, f"--sources={s0},{s1}")[0] == 0
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (
        folder / "model.safetensors"
    ).read_bytes()
    del content["sources"][1]["path"]
    recipe.write_text(json.dumps(content))
    message = refused(*argv)
    assert "does not say where its source 1 is; give all after the first (math, code)" in message


def test_sources_are_safe_and_complete(refused, made, sources, tmp_path):
    folder, _ = made("stitch")
    message = refused("apply", f"--recipe={folder / 'recipe.json'}", f"--out={sources / 'math'}")
    assert message.startswith(f"--out={sources / 'math'} would overwrite the model ")
    content = json.loads((folder / "recipe.json").read_text())
    content["sources"] = content["sources"][:2]
    recipe = tmp_path / "r.json"
    recipe.write_text(json.dumps(content))
    message = refused("apply", f"--recipe={recipe}", f"--out={tmp_path / 'a'}")
    assert message == f"a step of {recipe} needs source 2, but it names 2, of which the first is 0"


def test_sources_are_loaded_when_a_step_needs_them(jprune, made, sources, tmp_path):
    folder, _ = made("merge")
    content = json.loads((folder / "recipe.json").read_text())
    content["steps"] = [{"op": "merge", "args": {"method": "linear", "models": [0, 2]}}]
    content["sources"][1]["path"] = str(tmp_path / "gone")
    (tmp_path / "r.json").write_text(json.dumps(content))
    out = tmp_path / "a"
    assert jprune("apply", f"--recipe={tmp_path / 'r.json'}", f"--out={out}")[0] == 0
    base, code = load(sources / "base"), load(sources / "code")
    expected = merge("linear", [0, 1], sources={1: code})(base)
    same(load(out).embed, expected.embed)
