"""The Python API: the example of README, and how light an import is."""

import pathlib
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

import jprune
from jprune.llama.masks import unpack
from tests.cli.conftest import model, text  # noqa: F401

README = pathlib.Path(__file__).resolve().parents[1] / "README.md"


def test_the_example_of_readme_runs(model, text, tmp_path, monkeypatch):  # noqa: F811
    codes = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.S)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my-llama").symlink_to(model)
    (tmp_path / "my.txt").symlink_to(text)
    names: dict = {}
    for code in codes:  # each goes on from the one before
        exec(compile(code, str(README), "exec"), names)
    pruned, llama = names["pruned"], names["llama"]
    assert isinstance(pruned, jprune.Llama) and pruned.num_layers == llama.num_layers - 1
    assert tuple(names["chosen"][0]) in jprune.removed_units(llama, pruned)
    again = jprune.load_checkpoint(tmp_path / "pruned")
    assert again.llama.origins == pruned.origins
    recipe = jprune.Recipe.from_json(again.recipe)
    assert recipe.sources[0]["path"] == str(model.resolve())
    rebuilt = recipe.transform()(llama)
    assert rebuilt.origins == pruned.origins
    assert names["after"].ppl > 1
    adapted = jprune.load("adapter")
    recovered = names["recovered"]
    for ours, theirs in zip(jax.tree.leaves(adapted), jax.tree.leaves(recovered), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
    jax.tree.map(np.testing.assert_array_equal, names["masked"], names["sparse"].llama)
    nll = names["models"].nll(names["plan"], names["evaluation"])
    built = jprune.perplexity(names["stitched"], names["evaluation"]).window_nll
    np.testing.assert_allclose(nll, built, rtol=1e-5)
    assert names["stitched"].num_layers == 3 and names["merged"].num_layers == llama.num_layers
    for mask in names["two_of_four"].masks.values():
        groups = np.asarray(unpack(mask)).reshape(-1, 4, mask.shape[1])
        assert (groups.sum(axis=1) == 2).all()


def test_every_public_name_is_there():
    for name in jprune.__all__:
        assert getattr(jprune, name) is not None
    assert len(set(jprune.__all__)) == len(jprune.__all__)


@pytest.mark.parametrize("module", ["jprune", "jprune.cli.main", "jprune.cli.run"])
def test_imports_are_light(module):
    heavy = ["torch", "tensorflow", "matplotlib", "transformers", "datasets", "optuna"]
    code = f"import sys, {module}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
