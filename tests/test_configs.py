"""Every config that comes with jprune: its keys are known, its variants run."""

from itertools import pairwise

import pytest

from jprune.cli import configs
from jprune.core.errors import InputError
from jprune.core.files import read_json
from jprune.pipeline.depth_config import depth_config
from jprune.pipeline.finetune_config import finetune_config
from jprune.pipeline.job import JOBS, plain, run_config
from jprune.pipeline.sparse_config import sparse_config
from tests.cli.conftest import model, text  # noqa: F401  (fixtures)

VARIANTS = ("ppl", "taylor", "magnitude", "influence", "angular", "greedy")


@pytest.mark.parametrize("name", configs.available())
def test_the_docstring_has_the_command(name):
    path, _ = configs.resolve(name)
    docstring = path.read_text().split('"""')[1]
    assert f"--config={name}" in docstring
    assert all(len(line) <= 100 for line in docstring.splitlines())


@pytest.mark.parametrize("name", configs.available())
def test_keys_are_those_of_the_job(name):
    values = plain(configs.load_config(name))
    job = values.pop("job")
    assert job in JOBS
    if job in ("depth", "sparse"):
        {"depth": depth_config, "sparse": sparse_config}[job](values)
    if job == "finetune":
        finetune_config(values | {"model": values["model"] or "DIR"})


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_of_shortened_llama_runs(tmp_path, model, text, variant):  # noqa: F811
    overrides = {
        "model": str(model),
        "calibration": str(text),
        "eval": str(text),
        "sample": "stream",
        "remove": "1",
        "num_windows": "2",
        "window_length": "16",
        "eval_windows": "2",
        "curve_windows": "1",
        "curve_seeds": "1",
    }
    if variant in ("taylor", "magnitude"):
        overrides["protect"] = "0,-1"  # four blocks are too few for the rule of the paper
    config = configs.load_config(f"shortened_llama:{variant}", overrides)
    record = run_config(config, tmp_path)
    assert record["stages"][-1] == {**record["stages"][-1], "name": "report", "status": "done"}
    (gone,) = record["removed"]
    if variant in ("taylor", "magnitude"):
        assert gone["layer"] in (1, 2)
    criterion = "perplexity" if variant == "ppl" else variant
    scores = read_json(tmp_path / "scores" / f"{criterion}.json")
    assert scores["criterion"] == criterion
    assert record["figures"]["curve"]["series"][0]["criterion"] == criterion


@pytest.mark.parametrize("variant", configs.variants("dlp"))
def test_every_variant_of_dlp(variant):
    criterion, rest = variant.split("_", 1)
    allocation = rest.removesuffix("_lora")
    retrained = ["lora"] * rest.endswith("_lora")
    values = plain(configs.load_config(f"dlp:{variant}"))
    values.pop("job")
    config = sparse_config(values)
    assert (config.criterion, config.allocation) == (criterion, allocation)
    assert set(config.allocations) == {"dlp", "owl", "linear_depth", "uniform"}
    assert config.target == (0.2 if criterion == "width" else 0.7)
    assert config.target in config.curve_targets
    assert [config.retrain.kind] == (retrained or ["none"])


@pytest.mark.parametrize("variant", ["sparsegpt_owl", "width_dlp"])
def test_variants_of_dlp_run(tmp_path, model, text, variant):  # noqa: F811
    overrides = {
        "model": str(model),
        "calibration": str(text),
        "eval": str(text),
        "sample": "stream",
        "num_windows": "2",
        "eval_windows": "2",
        "curve_windows": "1",
        "curve_sparsities": "0.25",
        "compare": "uniform",
    }
    record = run_config(configs.load_config(f"dlp:{variant}", overrides), tmp_path)
    assert record["sparsity"]["criterion"] == variant.split("_")[0]
    names = [one["allocation"] for one in record["figures"]["sparsity_curve"]["series"]]
    assert names == [variant.split("_")[1], "uniform"]


def test_the_plus_rule_is_on_for_taylor_and_magnitude():
    rules = {v: configs.load_config(f"shortened_llama:{v}").protect for v in VARIANTS}
    assert rules == dict.fromkeys(VARIANTS, "") | dict.fromkeys(
        ("taylor", "magnitude"), "0-3,-2,-1"
    )


@pytest.mark.parametrize(
    ("variant", "criterion", "kind"),
    [
        ("ppl_lora", "perplexity", "lora"),
        ("taylor_lora", "taylor", "lora"),
        ("ppl_cpt", "perplexity", "full"),
        ("ppl_last_k", "perplexity", "last_k"),
        ("ppl_distill", "perplexity", "distill"),
    ],
)
def test_variants_of_shortened_llama_that_retrain(variant, criterion, kind):
    values = plain(configs.load_config(f"shortened_llama:{variant}"))
    values.pop("job")
    config = depth_config(values)
    assert (config.criterion, config.retrain.kind) == (criterion, kind)
    assert config.protect == ("0-3,-2,-1" if criterion == "taylor" else "")
    group = config.retrain
    adapters = (group.lora.rank, group.lora.alpha, group.lora.dropout, len(group.lora.targets))
    assert adapters == (8, 16.0, 0.05, 7)
    assert group.train.optimizer.learning_rate == 1e-4 and group.train.batch_size == 64
    if kind != "full":
        assert (group.data, group.window_length) == ("alpaca-cleaned", 256)


def test_unknown_variant():
    with pytest.raises(InputError, match="unknown variant of shortened_llama 'tailor'.*'taylor'"):
        configs.load_config("shortened_llama:tailor")


def test_the_demo_compares_every_criterion():
    demo = depth_config({k: v for k, v in plain(configs.load_config("demo")).items() if k != "job"})
    assert set(demo.criteria) == {"perplexity", *VARIANTS[1:]}
    assert (demo.remove, demo.curve_reach, demo.curve_seeds) == (2, 6, 5)


def test_adapters_of_the_bundled_model_have_learnt_their_part(tmp_path):
    overrides = {"trials": "3", "search_windows": "3", "eval_windows": "12", "compare": ""}
    values = configs.load_config("demo_stitch", overrides)
    record = run_config(values, tmp_path, until="evaluate-demo-llama-tables")
    nll = {
        phase: [entry["nll"] for entry in figures["perplexity"]]
        for phase, figures in record["figures"].items()
    }
    for place, part in enumerate(("prose", "code", "tables")):
        own = nll[f"demo-llama-{part}"]
        others = [nll[name][place] for name in nll if name != f"demo-llama-{part}"]
        assert own[place] < min(others)
    assert nll["demo-llama-tables"][2] < nll["before"][2] - 1


def test_the_demo_shows_that_criteria_beat_chance(tmp_path):
    overrides = {"eval_windows": "64", "curve_windows": "64", "compare": "greedy,influence"}
    record = run_config(configs.load_config("demo", overrides), tmp_path)
    curve = {one["criterion"]: one for one in record["figures"]["curve"]["series"]}
    assert len(curve["random"]["seeds"]) == 5
    names = ("perplexity", "greedy", "influence")
    best = [min(values) for values in zip(*(curve[name]["ppl"] for name in names), strict=True)]
    assert len(best) == 7 and all(a < b for a, b in pairwise(best))
    assert best[2] <= 2 * best[0]
    assert all(r > b for r, b in zip(curve["random"]["ppl"][1:], best[1:], strict=True))
    (before,), (after,) = (record["figures"][k]["perplexity"] for k in ("before", "after"))
    assert before["ppl"] < after["ppl"] < 2 * before["ppl"]
    assert before["protocol"]["split"] == "validation"
