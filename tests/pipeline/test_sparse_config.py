"""Configs of the job for layerwise sparsity: criteria of all kinds, widths, and what is refused."""

import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jprune.checkpoints import load
from jprune.core.errors import InputError
from jprune.core.files import read_json
from jprune.llama import to_params, widths
from jprune.pipeline.job import dry_run, run_config
from jprune.scores import choose_widths
from jprune.scores.inputs import stream
from jprune.transforms import narrow
from tests.pipeline.runs import eval_ids, ppl, ran


def own_criterion(kernel, s):
    return jnp.abs(kernel) * s[:, None]


def own_allocation(stats, sparsity, *, tilt=0.1):
    return 1 - sparsity + tilt * np.arange(len(stats.sizes))


def test_a_criterion_and_an_allocation_of_the_users_own(tmp_path, sparse_config, model):
    sys.modules.setdefault(__name__, sys.modules[own_criterion.__module__])
    values = sparse_config(
        criterion=f"{__name__}:own_criterion",
        allocation=f"{__name__}:own_allocation",
        allocation_options={f"{__name__}:own_allocation": {"tilt": 0.2}},
        compare=(),
        curve_windows=0,
    )
    record = run_config(values, tmp_path)
    densities = [row["density"] for row in record["sparsity"]["blocks"]]
    np.testing.assert_allclose(densities, [0.2, 0.4, 0.6, 0.8])
    ids = np.load(tmp_path / "calibration.npz")["ids"]
    stats = {}
    stream(load(model), ids, lambda index, block, inputs: stats.setdefault(index, inputs) and block)
    kernel, s = np.asarray(load(model).blocks[0].attn.q.kernel), stats[0].squares["attn_in"]
    order = np.argsort(np.abs(kernel) * np.asarray(s)[:, None], axis=0, kind="stable")
    expected = kernel.copy()
    np.put_along_axis(expected, order[: round(0.8 * len(kernel) - 0.4999)], 0, axis=0)
    np.testing.assert_array_equal(load(tmp_path / "model").blocks[0].attn.q.kernel, expected)


@pytest.mark.parametrize("uniform", [False, True])
def test_width(tmp_path, sparse_config, model, text, uniform):
    values = sparse_config(
        criterion="width", options={"uniform": uniform, "multiple": 4}, curve_sparsities=(0.25,)
    )
    record = run_config(values, tmp_path)
    densities = [row["density"] for row in record["sparsity"]["blocks"]]
    ids = np.load(tmp_path / "calibration.npz")["ids"]
    chosen = choose_widths(load(model), ids, density=densities, uniform=uniform, multiple=4)
    expected = narrow(**chosen.to_json())(load(model))
    (step,) = read_json(tmp_path / "recipe.json")["steps"]
    assert step == {"op": "narrow", "args": chosen.to_json()}
    pruned = load(tmp_path / "checkpoints" / "pruned")
    assert widths(pruned) == widths(expected)
    for row, width in zip(record["sparsity"]["blocks"], widths(expected), strict=True):
        assert row["heads"] == {"before": 2, "after": width.heads}
        assert row["neurons"] == {"before": 56, "after": width.neurons}
    before = sum(x.size for b in load(model).blocks for x in _kernels(b))
    after = sum(x.size for b in expected.blocks for x in _kernels(b))
    assert record["sparsity"]["zeros"] == before - after
    assert record["sparsity"]["achieved"] == pytest.approx(1 - after / before)
    assert record["sparsity"]["padded"] == (not uniform)
    stored = 4 * sum(x.size for x in _leaves(load(tmp_path / "model")))
    assert record["sparsity"]["bytes"]["stored"] == stored
    assert record["sparsity"]["bytes"]["unpadded"] == 4 * sum(x.size for x in _leaves(expected))
    (entry,) = record["figures"]["after"]["perplexity"]
    ids = eval_ids(model, text, 5)
    np.testing.assert_allclose(entry["ppl"], ppl(expected, ids), rtol=1e-5)
    np.testing.assert_allclose(ppl(load(tmp_path / "model"), ids), ppl(expected, ids), rtol=1e-5)
    targets = [one["sparsity"] for one in record["figures"]["sparsity_curve"]["series"]]
    assert targets == [[0.25, 0.5]] * 2


def memory_figure(line):
    number, unit = re.search(r"about ([\d.]+) (kB|MB)", line).groups()
    return float(number) * {"kB": 1e3, "MB": 1e6}[unit]


def _kernels(block):
    found = (block.attn.q, block.attn.k, block.attn.v, block.attn.o)
    return [x.kernel for x in (*found, block.mlp.gate, block.mlp.up, block.mlp.down)]


def _leaves(llama):
    return jax.tree.leaves(to_params(llama))


def test_depth_then_masks_then_depth(tmp_path, sparse_config, config, model, text):
    """Each job starts from what the one before wrote; the last recipe rebuilds all of it."""
    from jprune.cli.main import main

    run_config(config(curve_windows=0), tmp_path / "A")
    pruned = str(tmp_path / "A" / "checkpoints" / "pruned")
    second = run_config(sparse_config(model=pruned, compare=(), curve_windows=0), tmp_path / "B")
    assert [row["layer"] for row in second["sparsity"]["blocks"]] == [
        origin.index for origin in load(pruned).origins
    ]
    sparse = str(tmp_path / "B" / "checkpoints" / "pruned")
    third = run_config(config(model=sparse, curve_windows=0), tmp_path / "C")
    assert third["model"]["layers"] == {"before": 3, "after": 2}
    recipe = read_json(tmp_path / "C" / "recipe.json")
    assert [s["op"] for s in recipe["steps"]] == ["drop_blocks", "sparse_weights", "drop_blocks"]
    fourth = run_config(
        sparse_config(model=str(tmp_path / "B" / "model"), compare=(), curve_windows=0),
        tmp_path / "D",
    )
    assert fourth["sparsity"]["zeros"] > 0
    for recipe in ("B/recipe.json", "C/model/recipe.json", "D/recipe.json"):
        out = tmp_path / "again"
        assert main(["apply", f"--recipe={tmp_path / recipe}", f"--out={out}"]) == 0
        run = tmp_path / recipe.split("/")[0]
        found, expected = (to_params(load(folder)) for folder in (out, run / "model"))
        jax.tree.map(np.testing.assert_array_equal, found, expected)
    assert main(["apply", f"--recipe={tmp_path / 'C/recipe.json'}", f"--out={out}"]) == 0
    ids = eval_ids(model, text, 5)
    last = load(tmp_path / "C" / "model")
    np.testing.assert_allclose(ppl(load(tmp_path / "again"), ids), ppl(last, ids), rtol=1e-6)
    kernel = np.asarray(last.blocks[0].mlp.up.kernel)
    assert 0.2 < (kernel == 0).mean() < 0.8


def test_width_then_masks(tmp_path, sparse_config, model):
    run_config(sparse_config(criterion="width", compare=(), curve_windows=0), tmp_path / "A")
    narrowed = str(tmp_path / "A" / "checkpoints" / "pruned")
    record = run_config(sparse_config(model=narrowed, compare=(), curve_windows=0), tmp_path / "B")
    steps = read_json(tmp_path / "B" / "recipe.json")["steps"]
    assert [step["op"] for step in steps] == ["narrow", "sparse_weights"]
    assert widths(load(tmp_path / "B" / "checkpoints" / "pruned")) == widths(load(narrowed))
    assert record["sparsity"]["achieved"] == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sparsty": 0.5}, "unknown config key 'sparsty'; did you mean 'sparsity'"),
        ({"criterion": "wand"}, "unknown criterion 'wand'; did you mean 'wanda'"),
        ({"criterion": "no.module:f"}, "cannot import the criterion 'no.module:f'"),
        ({"allocation": "dpl"}, "unknown allocation 'dpl'; did you mean 'dlp'"),
        ({"allocation": "/nowhere.json"}, "no such file: /nowhere.json"),
        ({"compare": ("unifrm",)}, "did you mean 'uniform'"),
        (
            {"allocation_options": {"dlp": {"alpa": 1}}},
            "unknown option of dlp 'alpa'; did you mean 'alpha'",
        ),
        ({"options": {"uniform": True}}, "the criterion wanda has no options, but got 'uniform'"),
        ({"criterion": "width", "options": {"unifrm": 1}}, "did you mean 'uniform'"),
        ({"criterion": "width", "options": {"multiple": 0}}, "a multiple of 1 or more, not 0"),
        ({"criterion": "width", "options": {"parts": "mpl"}}, "did you mean 'mlp'"),
        ({"criterion": "width", "options": {"statistics": "dens"}}, "did you mean 'dense'"),
        ({"criterion": "width", "pattern": "2:4", "sparsity": None}, "whole heads and neurons"),
        ({"pattern": "2:4", "sparsity": 0.7}, "pattern 2:4 prunes 0.5 of the weights, not 0.7"),
        ({"pattern": "5:4"}, "keeps 5 of 4"),
        ({"pattern": "2by4"}, "unknown pattern '2by4'"),
        ({"sparsity": 1.0}, r"sparsity 1.0 is outside \[0, 1\)"),
        ({"sparsity": -0.1}, r"outside \[0, 1\)"),
        ({"curve_sparsities": (0.5, 1.5)}, "sparsity 1.5 is outside"),
        ({"curve_sparsities": "half"}, "numbers such as 0.5,0.7, not half"),
        ({"allocation_options": {"dpl": {}}}, "unknown allocation 'dpl'; did you mean 'dlp'"),
        ({"allocation_options": {"dlp": {"reduce": "mode"}}}, "unknown reduction 'mode'"),
        ({"allocation_options": {"dlp": {"alpha": "x"}}}, "the options of dlp are wrong"),
        ({"pattern": "3:6", "sparsity": None}, "3:6 does not divide the 32 inputs of layers.0"),
        ({"outlier_factor": float("nan")}, "a number above 0, not nan"),
        ({"outlier_factor": 0.0}, "outlier_factor is a number above 0, not 0.0"),
        ({"offload": "wieghts"}, "did you mean 'weights'"),
        ({"calibration": None}, "wanda reads data: give --config.calibration=SOURCE"),
        (
            {
                "calibration": None,
                "criterion": "magnitude",
                "allocation": "uniform",
                "compare": ("linear_depth", "owl"),
            },
            "owl reads data: give --config.calibration=SOURCE",
        ),
        ({"window_length": 1}, "'window_length' takes an integer from 2 on, not 1"),
        ({"model": "/nowhere/at/all"}, "no such checkpoint: /nowhere/at/all"),
    ],
)
def test_bad_configs_leave_nothing_behind(tmp_path, sparse_config, change, message):
    with pytest.raises(InputError, match=message):
        run_config(sparse_config(**change), tmp_path / "W")
    assert not (tmp_path / "W").exists()


def test_densities_that_do_not_fit(tmp_path, sparse_config):
    file = tmp_path / "densities.json"
    for content, message in (("[0.5, 0.5]", "gave 2 densities for 4 blocks"), ("{", "JSON")):
        file.write_text(content)
        with pytest.raises(InputError, match=message):
            run_config(sparse_config(allocation=str(file)), tmp_path / "W")
    assert not (tmp_path / "W").exists()


def test_allocations_of_one_name(tmp_path, sparse_config):
    for name in ("a-b.json", "a_b.json"):
        (tmp_path / name.replace("_", " ")).write_text("[0.5, 0.5, 0.5, 0.5]")
    alike = tuple(str(tmp_path / name) for name in ("a-b.json", "a b.json"))
    with pytest.raises(InputError, match="names too much alike; rename one"):
        run_config(sparse_config(compare=alike), tmp_path / "W")
    twice = sparse_config(compare=("uniform", "uniform", "dlp"))
    assert sum("curve-" in line for line in dry_run(twice, tmp_path / "W")) == 3


def test_windows_are_as_long_as_the_model_reads(tmp_path, sparse_config):
    run_config(
        sparse_config(window_length=None, num_windows=2, compare=(), curve_windows=0), tmp_path
    )
    assert np.load(tmp_path / "calibration.npz")["ids"].shape == (2, 64)  # of at most 2048


def test_sizes_are_known_before(tmp_path, sparse_config, model):
    parameters = sum(x.size for x in _leaves(load(model)))
    linears = sum(x.size for b in load(model).blocks for x in _kernels(b))
    first, memory, disk = dry_run(sparse_config(), tmp_path)[-3:]
    assert f"{linears * 0.5 / 1000:.1f}K of them zero" in first and "(0%)" in first
    assert "memory: about" in memory and "on cpu in float32" in memory
    bytes_needed = 2 * 4 * parameters + linears / 8
    assert f"about {bytes_needed / 1000:.0f} kB" in disk
    narrower = dry_run(sparse_config(criterion="width", sparsity=0.25), tmp_path)[-3]
    assert f"-> about {(parameters - 0.25 * linears) / 1000:.1f}K" in narrower
    # Two models, the streams of 3 windows of 16 tokens, and of a batch of 48 tokens, in float32,
    # six states and three times the 56 neurons, which is more than the logits of 300 tokens.
    assert memory_figure(memory) == pytest.approx(
        4 * (2 * parameters + 48 * 32 + max(48 * (6 * 32 + 3 * 56), 48 * 300)), rel=0.01
    )
    offloaded = dry_run(sparse_config(offload="weights"), tmp_path)[-2]
    assert memory_figure(offloaded) < memory_figure(memory)


def test_an_edited_criterion_of_the_users_own_is_run_again(tmp_path, sparse_config, monkeypatch):
    file = tmp_path / "criterion_of_test_sparse.py"
    code = "import jax.numpy as jnp\n\n\ndef mine(kernel, s):\n    return jnp.abs(kernel){}\n"
    file.write_text(code.format(""))
    monkeypatch.syspath_prepend(tmp_path)
    values = sparse_config(
        criterion="criterion_of_test_sparse:mine", allocation="uniform", compare=(), curve_windows=0
    )
    try:
        run_config(values, tmp_path / "W")
        assert ran(run_config(values, tmp_path / "W")) == []
        file.write_text(code.format(" * s[:, None] "))
        sys.modules.pop("criterion_of_test_sparse")  # as a new process does
        again = run_config(values, tmp_path / "W")
        assert ran(again)[:2] == ["prune", "recipe"]
    finally:
        sys.modules.pop("criterion_of_test_sparse", None)


def test_what_cannot_matter_reruns_nothing(tmp_path, sparse_config):
    values = sparse_config(criterion="magnitude", allocation="uniform", compare=("linear_depth",))
    run_config(values, tmp_path)
    again = run_config(values | {"compare": ("linear_depth", "dlp"), "seed": 1}, tmp_path)
    assert ran(again) == ["calibration", "statistics", "curve-dlp", "report"]


def test_width_has_no_pattern(tmp_path, sparse_config):
    record = run_config(sparse_config(criterion="width", sparsity=0.25, compare=()), tmp_path)
    assert "pattern" not in record["sparsity"]
    assert record["figures"]["sparsity_curve"]["pattern"] is None
    assert "unstructured" not in (tmp_path / "report.html").read_text()
