"""The job for merging: every model evaluated on the same data, the result exported."""

import shutil

import jax
import numpy as np
import pytest

from jprune.checkpoints import export_huggingface, load
from jprune.cli import configs
from jprune.core.errors import InputError
from jprune.core.files import read_json
from jprune.llama import to_params
from jprune.pipeline.job import dry_run, run_config
from jprune.transforms import merge_models
from tests.pipeline.runs import eval_ids, ppl, ran
from tests.tiny import finetunes, tiny


def same(a, b):
    jax.tree.map(np.testing.assert_array_equal, to_params(a), to_params(b))


@pytest.fixture(scope="module")
def folders(model, tmp_path_factory):
    """The folders of a base and two finetunes of it, math and code."""
    folder = tmp_path_factory.mktemp("merging")
    shutil.copytree(model, folder / "base")
    for name, llama in zip(("math", "code"), finetunes(load(model), "math", "code"), strict=True):
        export_huggingface(folder / name, llama)
    export_huggingface(folder / "other", tiny(4, vocab_size=200))
    return folder


@pytest.fixture
def config(folders, text):
    """A function (method, changes) -> config."""

    def make(method="ties", **changes):
        overrides = {
            "model": str(folders / "base"),
            "variants": f"{folders / 'math'},{folders / 'code'}",
            "eval": str(text),
            "eval_windows": "5",
        }
        return configs.load_config(f"merge:{method}", overrides | changes)

    return make


def test_ties(tmp_path, config, folders, model, text):
    record = run_config(config(), tmp_path)
    base, math, code = (load(folders / name) for name in ("base", "math", "code"))
    expected = merge_models([math, code], "ties", base=base, density=0.2, factor=1.0)
    ids = eval_ids(model, text, 5)
    models = {"before": base, "math": math, "code": code, "after": expected}
    for name, llama in models.items():
        (entry,) = record["figures"][name]["perplexity"]
        np.testing.assert_allclose(entry["ppl"], ppl(llama, ids), rtol=1e-5)
    for folder in ("model", "checkpoints/pruned"):
        same(load(tmp_path / folder), expected)
    assert [one["name"] for one in record["variants"]] == ["math", "code"]
    recipe = read_json(tmp_path / "recipe.json")
    assert [source["name"] for source in recipe["sources"]] == ["base", "math", "code"]
    page = (tmp_path / "report.html").read_text()
    assert "math" in page and "ties" in page
    assert ran(run_config(config(), tmp_path)) == []
    again = run_config(config(**{"options.factor": "0.5"}), tmp_path)
    assert ran(again) == ["recipe", "evaluate-after", "export", "checkpoint", "report"]
    with pytest.raises(InputError, match="belongs to another variants|another variant"):
        run_config(config(variants=str(folders / "math")), tmp_path)


@pytest.mark.parametrize("method", [name for name in configs.variants("merge") if name != "ties"])
def test_every_method_has_a_config(tmp_path, config, folders, method):
    variants = {"slerp": str(folders / "code")} | {"passthrough": str(folders / "code")}
    changes = {"variants": variants[method]} if method in variants else {}
    if method == "passthrough":
        changes["include_model"] = "false"
    lines = dry_run(config(method, **changes), tmp_path)
    assert any(line.startswith("evaluate-code") for line in lines)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"variants": ""}, "--config.variants=FOLDER"),
        ({"variants": "/nowhere"}, "no such checkpoint: /nowhere"),
        ({"method": "teis"}, "did you mean 'ties'"),
        ({"options.density": "1.5"}, "density of ties is 1.5"),
        ({"vocab": "intersct"}, "did you mean 'intersect'"),
        ({"ends": "bas"}, "did you mean 'base'"),
    ],
)
def test_bad_configs_leave_nothing_behind(tmp_path, config, changes, message):
    with pytest.raises(InputError, match=message):
        run_config(config(**changes), tmp_path / "W")
    assert not (tmp_path / "W").exists()


def test_variants_that_do_not_fit(tmp_path, config, folders):
    with pytest.raises(InputError, match="base and other differ in vocabulary size: 300 and 200"):
        run_config(config(variants=str(folders / "other")), tmp_path)
    with pytest.raises(InputError, match="is the same as the model; give others"):
        run_config(config(variants=str(folders / "base")), tmp_path)
