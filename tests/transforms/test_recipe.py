"""Recipes rebuild what was done, and refuse what they do not know."""

import json

import numpy as np
import pytest

from jprune.core.errors import InputError
from jprune.transforms import Recipe, chain, drop_blocks, drop_sublayers, from_step, merge
from tests.llama.test_stack import same
from tests.tiny import finetunes, tiny


def test_a_recipe_rebuilds_the_model():
    llama = tiny(5)
    transform = chain(drop_sublayers(mlp=[0, 4]), drop_blocks(np.array([1, 2])))
    recipe = Recipe(({"name": "tiny", "path": "x", "sha256": "y"},)).then(transform)
    read = Recipe.from_json(json.loads(json.dumps(recipe.to_json())))
    assert read == recipe
    assert recipe.to_json()["version"] == 1
    same(read.transform()(llama), transform(llama))


def test_recipes_grow_by_what_is_done_next():
    first = Recipe().then(drop_blocks([3]))
    both = first.then(drop_blocks([0]))
    llama = tiny(5)
    same(both.transform()(llama), chain(drop_blocks([3]), drop_blocks([0]))(llama))


def test_arguments_may_be_given_by_place_or_name():
    assert drop_blocks([1]).steps == drop_blocks(blocks=(1,)).steps
    assert from_step({"op": "drop_blocks", "args": {"blocks": [1]}}) == drop_blocks([1])


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"op": "drop_block", "args": {}}, "unknown op 'drop_block'; did you mean 'drop_blocks'"),
        ({"op": "drop_blocks", "args": {"layers": [1]}}, "step drop_blocks is wrong"),
        ({"op": "drop_blocks", "args": {"blocks": 3}}, "step drop_blocks is wrong"),
        ({"op": "drop_blocks", "args": {"blocks": ["a"]}}, "step drop_blocks is wrong"),
        ({"op": "drop_blocks", "args": [1]}, "step drop_blocks is wrong"),
        ({"args": {}}, "a step of a recipe is"),
        ("drop_blocks", "a step of a recipe is"),
    ],
)
def test_wrong_steps(step, message):
    with pytest.raises(InputError, match=message):
        from_step(step)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "this is no recipe"),
        ({"version": 1}, "this is no recipe"),
        ({"version": 2, "steps": []}, "version 2; this jprune reads version 1"),
        ({"version": 1, "sources": None, "steps": []}, "the sources of this recipe are None"),
        ({"version": 1, "sources": 3, "steps": []}, "the sources of this recipe are 3"),
        ({"version": 1, "sources": ["m"], "steps": []}, "the sources of this recipe are"),
    ],
)
def test_wrong_recipes(data, message):
    with pytest.raises(InputError, match=message):
        Recipe.from_json(data)


def test_a_model_without_a_recipe_or_with_an_empty_one_is_a_source(tmp_path, monkeypatch):
    (tmp_path / "m").mkdir()
    monkeypatch.chdir(tmp_path)
    source = {"name": "m", "path": str((tmp_path / "m").resolve()), "sha256": "y"}
    for saved in (None, Recipe().to_json()):
        assert Recipe.of_model(saved, "m", "m", "y") == Recipe((source,))
        assert Recipe.of_model(saved, "m", "m", lambda: "y") == Recipe((source,))
    with pytest.raises(InputError, match="this is no recipe"):
        Recipe.of_model({}, "m", "m", "y")


def test_a_saved_recipe_goes_on(tmp_path):
    def never():
        raise AssertionError("the hash of a model with a recipe is not needed")

    known = Recipe(({"name": "a", "path": "b", "sha256": "c"},)).then(drop_blocks([1]))
    for recipe in (known, Recipe().then(drop_blocks([1]))):
        assert Recipe.of_model(recipe.to_json(), "m", tmp_path, never) == recipe


def test_hub_ids_and_addresses_stay_as_they_are():
    for path in ("org/no-such-folder", "gs://bucket/model"):
        (source,) = Recipe.of_model(None, "m", path, "y").sources
        assert source["path"] == path


def test_arguments_by_name_beyond_those_declared():
    step = merge("ties", [1], density=0.5)
    assert step.steps[0]["args"] == {"method": "ties", "models": [1], "density": 0.5}
    assert from_step(step.steps[0]) == step
    assert hash(from_step(step.steps[0])) == hash(step)


def test_sources_and_arrays_are_no_part_of_a_recipe():
    llama, (other,) = tiny(2), finetunes(tiny(2), "other")
    step = merge("linear", [1], sources={1: other})
    assert step.steps == merge("linear", [1]).steps
    recipe = Recipe().then(step)
    for sources in ({1: other}, lambda index: {1: other}[index]):
        same(recipe.transform(sources=sources)(llama), step(llama))
    # A step is made without them: what is needed is needed when it runs.
    with pytest.raises(InputError, match="merge needs source 1 of the recipe"):
        recipe.transform()(llama)


def test_further_sources():
    class Checkpoint:
        def __init__(self, name, sha256):
            self.name, self.path, self.sha256 = name, f"gs://bucket/{name}", sha256

    base, one, two = (Checkpoint(name, sha) for name, sha in (("b", "0"), ("m", "1"), ("c", "2")))
    first = Recipe(({"name": "b", "path": "gs://bucket/b", "sha256": "0"},))
    recipe, indices = first.with_sources(one, two, one)
    assert indices == [1, 2, 1]
    assert [source["name"] for source in recipe.sources] == ["b", "m", "c"]
    assert recipe.sources[2] == {"name": "c", "path": "gs://bucket/c", "sha256": "2"}
    # The first source stands for the model at each step, which need not be that source any more.
    again, indices = recipe.then(drop_blocks([0])).with_sources(base, two)
    assert indices == [3, 2] and again.sources[3] == first.sources[0]
