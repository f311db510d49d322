"""Candidates evaluated from their sources against each one built, exported and loaded again."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jprune.checkpoints import export_huggingface, load
from jprune.core import mesh as meshes
from jprune.core.errors import InputError
from jprune.evaluate import Removal, StitchedModels, stitched, window_nll
from jprune.evaluate.plans import candidate_of
from jprune.llama import Lora, next_token_nll, stack
from jprune.measure.compilations import compilations
from jprune.transforms import StitchPlan, drop_blocks, drop_sublayers, stitch_models
from tests.llama.test_stack import same
from tests.tiny import family, finetunes, tiny, windows, without

BASE = tiny(5)
VARIANTS = finetunes(BASE, "math", "code", "chat")
IDS = windows(7, 12)


def row(rng, layer, linear=False):
    chosen = [variant for variant in range(3) if rng.random() < 0.5]
    kind = rng.integers(2 if linear else 4)
    found = {"layer": layer, "variants": chosen}
    if kind == 0 and chosen:
        return found | {"method": "linear", "weights": rng.integers(1, 5, len(chosen)).tolist()}
    if kind == 2 and chosen:
        return found | {"method": "ties", "density": 0.5, "factor": 0.7}
    if kind == 3 and len(chosen) == 2:
        return found | {"method": "slerp", "t": 0.3}
    return found | {"factor": round(float(rng.random()), 3)}


def random_plan(seed, kept=None, linear=False):
    """Some of the five layers, each made in some way; half of the plans have ends of their own."""
    rng = np.random.default_rng(seed)
    kept = kept or int(rng.integers(2, 5))
    layers = sorted(rng.choice(5, kept, replace=False).tolist())
    plan = {"layers": [row(rng, layer, linear) for layer in layers]}
    if seed % 2 and not linear:
        plan["ends"] = {"variants": [0, 2][: 1 + seed % 3], "factor": 0.4}
    return StitchPlan.from_json(plan)


def built(plan):
    return stitch_models(plan, BASE, VARIANTS)


def rows(*layers):
    return StitchPlan.from_json([{"layer": layer} for layer in layers])


@pytest.fixture(scope="module")
def models():
    return StitchedModels(BASE, VARIANTS)


@pytest.mark.parametrize("seed", range(20))
def test_evaluated_built_and_exported_agree(models, seed, tmp_path):
    plan = random_plan(seed)
    found = models.nll(plan, IDS)
    assert found.shape == (7,) and found.dtype == np.float32
    llama = built(plan)
    np.testing.assert_allclose(found, window_nll(llama, IDS), atol=1e-5, rtol=0)
    export_huggingface(tmp_path / "out", llama)
    again = load(tmp_path / "out", dtype="float32")
    np.testing.assert_allclose(found, window_nll(again, IDS), atol=1e-5, rtol=0)


@pytest.mark.parity
def test_exported_and_loaded_by_transformers(models, tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    ids = torch.tensor(IDS, dtype=torch.long)
    for seed in range(20):
        plan, folder = random_plan(seed), tmp_path / str(seed)
        export_huggingface(folder, built(plan))
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        with torch.no_grad():
            logits = model.eval()(ids).logits[:, :-1]
        picked = torch.log_softmax(logits, -1).gather(-1, ids[:, 1:, None])[..., 0]
        expected = -picked.mean(axis=1).numpy()
        np.testing.assert_allclose(models.nll(plan, IDS), expected, atol=1e-5, rtol=0)


def test_the_published_stitched_model(shared):
    """Perplexity of the shared models, stitched by the published code."""
    golden = json.loads((shared / "goldens" / "merges.json").read_text())["stitched"]
    names = ("math", "code", "chat")
    folders = [shared / "models" / f"llama-16m{tail}" for tail in ("", *(f"-{n}" for n in names))]
    base, *variants = (load(folder, dtype="float32") for folder in folders)
    models = StitchedModels(base, variants)
    plan = StitchPlan.from_json(golden["plan"], names=names)
    with np.load(shared / "goldens" / "merges.npz") as file:
        for name in names:
            nll = models.nll(plan, file[f"windows_{name}"].astype(np.int32))
            assert np.exp(nll.mean(dtype=np.float64)) == pytest.approx(golden[name], rel=5e-4)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_blocks_and_ends_are_those_of_the_built_model_bit_for_bit(dtype):
    base, *variants = (
        jax.tree.map(lambda x: x.astype(dtype), model) for model in (BASE, *VARIANTS)
    )
    variants[1] = VARIANTS[1]  # in float32: the dtypes are the base's
    sources = StitchedModels(base, variants)._sources
    other = {"layer": 4, "variants": [0, 1], "method": "dare", "density": 0.5, "seed": 3}
    plans = [*(random_plan(seed) for seed in range(8)), StitchPlan.from_json([{"layer": 0}, other])]
    for plan in plans:
        expected = stitch_models(plan, base, variants)
        ends, steps = candidate_of(plan, sources.there, 4)
        same(sources.ends(ends).replace(config=expected.config), expected.replace(blocks=()))
        for step, block in zip(steps, expected.blocks, strict=True):
            same(sources.block(step), block.replace(origin=None))


def test_what_is_as_it_is_is_not_copied_and_what_is_mixed_goes():
    variant = VARIANTS[0].replace(embed=jnp.array(BASE.embed), lm_head=BASE.lm_head)
    models = StitchedModels(BASE, [variant], memory=0)
    ends = models._sources.all_ends
    assert ends[1].embed is BASE.embed and ends[1].final_norm is variant.final_norm
    copy, mixed = [{"layer": 1, "variants": [0]}], {"layer": 2, "variants": [0], "method": "linear"}
    _, steps = candidate_of(StitchPlan.from_json(copy), models._sources.there, 2)
    assert models._sources.block(steps[0]).attn.q.kernel is variant.blocks[1].attn.q.kernel
    mixed = [{"layer": 2, "variants": [0], "method": "task_arithmetic", "factor": 0.3}]
    plan = StitchPlan.from_json([*copy, *mixed])
    models.nll(plan, IDS)  # what compiled programs hold stays
    before = len(jax.live_arrays())
    models.nll(plan, IDS)
    assert len(jax.live_arrays()) == before


def test_nothing_is_compiled_after_the_first_candidate():
    ids = windows(6, 11)
    models = StitchedModels(BASE, VARIANTS)
    start = compilations()
    first = [{"layer": 0}, {"layer": 1, "variants": [0, 1], "factor": 0.2}]
    models.nll(StitchPlan.from_json(first), ids, batch_size=3)
    after = compilations()
    assert after > start
    for seed in range(40):
        models.nll(random_plan(seed, kept=1 + seed % 5, linear=True), ids, batch_size=3)
    assert compilations() == after


def test_windows_in_parts(models, monkeypatch):
    plan = random_plan(3)
    whole = models.nll(plan, IDS, batch_size=2)
    # Two batches of two windows at a time.
    monkeypatch.setattr(stitched, "MAX_STATE_BYTES", 5 * 2 * 12 * 32 * 4 // 2)
    fresh = StitchedModels(BASE, VARIANTS)
    np.testing.assert_array_equal(fresh.nll(plan, IDS, batch_size=2), whole)
    np.testing.assert_array_equal(fresh.nll(plan, IDS, batch_size=2), whole)
    np.testing.assert_allclose(whole, window_nll(built(plan), IDS), atol=1e-5, rtol=0)


def test_removal(blocks_run):
    """Attention, MLPs and blocks of one model, which lacks some already and has an adapter."""
    q = BASE.blocks[0].attn.q
    a, b = jax.random.normal(jax.random.key(1), (2, 32, 32))
    adapted = q.replace(kernel=Lora(q.kernel, a[:, :2], b[:2], scale=0.1))
    block = BASE.blocks[0].replace(attn=BASE.blocks[0].attn.replace(q=adapted))
    llama = drop_sublayers(attention=[1], mlp=[3])(BASE.replace(blocks=(block, *BASE.blocks[1:])))
    there = np.ones((5, 2), bool)
    there[1, 0] = there[3, 1] = False
    models = [StitchedModels(form(llama), memory=0) for form in (lambda x: x, stack)]
    rng = np.random.default_rng(0)
    for _ in range(4):
        gates = rng.random((5, 2)) < 0.7
        model = without(llama, gates & there)
        expected = np.asarray(next_token_nll(model, IDS)).mean(axis=1)
        for found in models:
            np.testing.assert_allclose(found.nll(Removal(gates), IDS), expected, atol=1e-5, rtol=0)
    blocks_run.clear()
    models[0].nll(Removal(np.tile([False, True], (5, 1))), IDS)
    assert len(blocks_run) == 4  # layer 3 has no MLP
    gates = np.ones((5, 2), bool)
    gates[2] = False
    expected = window_nll(drop_blocks([2])(llama), IDS)
    np.testing.assert_allclose(models[0].nll(Removal(gates), IDS), expected, atol=1e-5, rtol=0)
    assert Removal(gates) == Removal(gates.tolist()) and hash(Removal(gates))


def test_layers_of_stitches_that_lack_sublayers():
    pruned = [drop_sublayers(attention=[1], mlp=[3])(model) for model in (BASE, *VARIANTS)]
    models = StitchedModels(pruned[0], pruned[1:])
    for seed in range(4):
        plan = random_plan(seed)
        expected = window_nll(stitch_models(plan, pruned[0], pruned[1:]), IDS)
        np.testing.assert_allclose(models.nll(plan, IDS), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["gemma", "qwen3"])
def test_other_families_and_models_on_the_host(name):
    base = family(name, 3)
    variants = finetunes(base, "math", "code")
    plan = StitchPlan.from_json(
        {
            "layers": [{"layer": 0, "variants": [0, 1], "factor": 0.3}, {"layer": 2}],
            "ends": {"variants": [0, 1], "factor": 0.4},
        }
    )
    expected = window_nll(stitch_models(plan, base, variants), IDS)
    on_host = jax.tree.map(np.asarray, variants[1])
    models = StitchedModels(stack(base), [variants[0], on_host])
    np.testing.assert_allclose(models.nll(plan, IDS), expected, atol=1e-5, rtol=0)


def test_on_a_mesh(tmp_path):
    base = tiny(4, vocab_size=96)
    folders = [tmp_path / name for name in ("base", "math", "code")]
    for folder, llama in zip(folders, (base, *finetunes(base, "math", "code")), strict=True):
        export_huggingface(folder, llama)
    ids = windows(6, 16, vocab=96)
    mixed = {"layer": 1, "variants": [0, 1], "factor": 0.4}
    ties = {"layer": 2, "variants": [0, 1], "method": "ties", "density": 0.5}
    plans = [StitchPlan.from_json(x) for x in ([mixed, ties], [{"layer": 0}, mixed], [mixed])]
    plans.append(Removal([[1, 1], [0, 1], [1, 0], [0, 0]]))
    sources = [load(folder) for folder in folders]
    alone = StitchedModels(sources[0], sources[1:]).nlls(plans, ids)
    with meshes.use_mesh(meshes.parse_mesh("data:2,tensor:2", jax.devices()[:4])):
        spread = [load(folder) for folder in folders]
        models = StitchedModels(spread[0], spread[1:])
        found = models.nlls(plans, ids)
        again = models.nlls(plans, ids)
        fresh = StitchedModels(spread[0], spread[1:], memory=0).nlls(plans, ids)
        _, (step, _) = candidate_of(plans[0], models._sources.there, 3)
        for leaf, like in zip(
            jax.tree.leaves(models._sources.block(step)),
            jax.tree.leaves(spread[0].blocks[1]),
            strict=True,
        ):
            assert leaf.sharding.is_equivalent_to(like.sharding, leaf.ndim)
    np.testing.assert_allclose(found, alone, atol=1e-5, rtol=0)
    np.testing.assert_array_equal(again, found)
    np.testing.assert_array_equal(fresh, found)


def test_errors(models):
    with pytest.raises(InputError, match="layer 0 of the plan is from layer 5, but the models hav"):
        models.nll(rows(5), IDS)
    four = StitchPlan.from_json([{"layer": 0, "variants": [3]}])
    with pytest.raises(InputError, match="the plan has variant 3, but there are 3 variants"):
        models.nll(four, IDS)
    with pytest.raises(InputError, match="there are gates of 2 layers, but the model has 5"):
        models.nll(Removal([[1, 1], [0, 1]]), IDS)
    with pytest.raises(InputError, match=r"gates are two truths for every layer.*, not \[5\]"):
        Removal([1, 1, 0, 1, 1])
    with pytest.raises(InputError, match="needs at least one window"):
        models.nll(rows(0), IDS[:0])
    with pytest.raises(InputError, match="windows of at least 2 tokens"):
        models.nll(rows(0), IDS[:, :1])
    with pytest.raises(InputError, match="97"):
        models.nll(rows(0), IDS + 90)
    with pytest.raises(
        InputError,
        match=r"variant 1 does not fit the base: embed_tokens.embedding "
        r"is \[97, 32\] in the base and \[90, 32\] in the variant",
    ):
        StitchedModels(BASE, [VARIANTS[0], tiny(5, vocab_size=90)])
    with pytest.raises(
        InputError, match="0 does not .* is missing in the base and .* in the varia"
    ):
        StitchedModels(drop_blocks([4])(BASE), [VARIANTS[0]])
