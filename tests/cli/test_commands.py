import json
import os

import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import jprune.checkpoints as checkpoints
from jprune.llama import forward


def read(path):
    return json.loads(path.read_text())


def tensors(folder):
    return {
        name: array
        for file in sorted(folder.glob("*.safetensors"))
        for name, array in safetensors.numpy.load_file(file).items()
    }


def mean_nll(folder, ids):
    """The mean next-token NLL from whole logits, in float64."""
    logits = np.asarray(forward(checkpoints.load(folder), jnp.asarray(ids)), np.float64)[:, :-1]
    logits -= logits.max(-1, keepdims=True)
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return -np.take_along_axis(logs, ids[:, 1:, None], -1).mean()


@pytest.fixture
def windows(tmp_path):
    ids = np.random.default_rng(0).integers(2, 300, (6, 20)).astype(np.int32)
    np.savez(tmp_path / "w.npz", ids=ids)
    return f"{tmp_path / 'w.npz'}:ids", ids


def test_eval(jprune, model, windows, text, tmp_path):
    source, ids = windows
    out = tmp_path / "e.json"
    status, table, err = jprune(
        "eval", f"--model={model}", f"--data={source},{text}", f"--out={out}"
    )
    assert status == 0 and "Traceback" not in err
    result = read(out)
    first, second = result["perplexity"]
    assert first["nll"] == pytest.approx(mean_nll(model, ids), abs=1e-5)
    assert first["ppl"] == pytest.approx(np.exp(mean_nll(model, ids)), rel=1e-5)
    assert first["tokens"] == 6 * 19 and first["data"] == source
    assert second["protocol"]["window_length"] == 64  # 128, but the model's maximum is 64
    assert second["protocol"]["bos"] == "first" and second["protocol"]["dtype"] == "float32"
    assert result["tasks"] == [] and result["protocol"] == "shortened"
    assert result["command_line"].startswith(f"jprune eval --model={model}")
    rows = table.splitlines()
    assert rows[0].split() == ["data", "PPL", "NLL", "tokens"]
    assert rows[2].split()[:2] == [source, f"{first['ppl']:.1f}"]
    assert "64 tokens" in table and f"protocol of {text}" in table


def test_eval_takes_the_first_windows(jprune, model, windows, tmp_path):
    source, ids = windows
    out = tmp_path / "e.json"
    assert jprune("eval", f"--model={model}", f"--data={source}", "--num_windows=2",
                  f"--out={out}")[0] == 0  # fmt: skip
    (figure,) = read(out)["perplexity"]
    assert figure["nll"] == pytest.approx(mean_nll(model, ids[:2]), abs=1e-5)


def test_score_agrees_with_pruned_and_saved_models(jprune, model, windows, tmp_path):
    source, ids = windows
    out = tmp_path / "s.json"
    status, table, _ = jprune("score", f"--model={model}", f"--data={source}", f"--out={out}")
    assert status == 0
    result = read(out)
    for layer, score in enumerate(result["scores"]):
        pruned = tmp_path / f"without{layer}"
        assert jprune("prune", f"--model={model}", f"--blocks={layer}", f"--out={pruned}")[0] == 0
        assert score == pytest.approx(np.exp(mean_nll(pruned, ids)), rel=2e-5)
    order = sorted(range(4), key=lambda layer: result["scores"][layer])
    assert result["order"] == order and result["protected"] == []
    assert len(result["standard_error"]) == len(result["delta_nll"]) == 4
    rows = [line.split() for line in table.splitlines()[2:]]
    assert [row[:2] for row in rows] == [["block", str(layer)] for layer in range(4)]
    assert [int(row[6]) for row in rows] == [order.index(layer) + 1 for layer in range(4)]
    assert "█" in table

    chosen = tmp_path / "chosen"
    assert jprune("prune", f"--model={model}", f"--scores={out}", "--remove=2",
                  f"--out={chosen}")[0] == 0  # fmt: skip
    kept = sorted(set(range(4)) - set(order[:2]))
    assert [origin.index for origin in checkpoints.load(chosen).origins] == [0, 1]
    full, left = tensors(model), tensors(chosen)
    for new, old in enumerate(kept):
        name = "model.layers.{}.mlp.up_proj.weight"
        assert np.array_equal(left[name.format(new)], full[name.format(old)])


def test_score_writes_picture_and_windows_that_reproduce_it(jprune, model, text, tmp_path):
    out = tmp_path / "s.json"
    arguments = ("score", f"--model={model}", "--window_length=16", "--num_windows=5")
    first = ("--data", text, "--sample=stream", "--seed=3", f"--out={out}")
    assert jprune(*arguments, *first)[0] == 0
    assert (tmp_path / "s.png").read_bytes().startswith(b"\x89PNG")
    result = read(out)
    assert result["protocol"]["sample"] == "stream" and result["protocol"]["seed"] == 3
    again = tmp_path / "again.json"
    data = f"--data={tmp_path / 's.windows.npz'}:ids"
    assert jprune(*arguments, data, f"--out={again}")[0] == 0
    assert read(again)["scores"] == result["scores"]
    assert read(again)["protocol"]["ids_sha256"] == result["protocol"]["ids_sha256"]
    assert read(again)["protocol"]["sample"] is None
    other = tmp_path / "other.json"
    assert jprune(*arguments, *first[:3], "--seed=4", f"--out={other}")[0] == 0
    assert read(other)["scores"] != result["scores"]
    assert {p.name for p in tmp_path.iterdir()} == {
        f"{stem}.{ending}"
        for stem in ("s", "again", "other")
        for ending in ("json", "png", "windows.npz")
    }


def test_score_options(jprune, model, windows, tmp_path):
    source, _ = windows
    out = tmp_path / "s.json"
    base = ("score", f"--model={model}", f"--out={out}")
    assert jprune(*base, "--criterion=magnitude", "--power=2", "--protect=0,-1")[0] == 0
    result = read(out)
    assert result["protected"] == [0, 3] and sorted(result["order"]) == [1, 2]
    assert result["protocol"] is None
    full = tensors(model)
    squares = [
        sum(float((w.astype(np.float64) ** 2).sum()) for n, w in full.items() if f"s.{i}." in n)
        for i in range(4)
    ]
    assert result["scores"] == pytest.approx(squares, rel=1e-5)

    assert jprune(*base, "--criterion=random", "--seed=1", "--granularity=sublayer")[0] == 0
    first = read(out)["scores"]
    assert len(first) == 8
    assert jprune(*base, "--criterion=random", "--seed=2", "--granularity=sublayer")[0] == 0
    assert read(out)["scores"] != first

    status, table, _ = jprune(*base, "--criterion=angular", "--remove=2", f"--data={source}",
                              "--protect=0")  # fmt: skip
    assert status == 0
    result = read(out)
    assert result["n"] == 2 and len(result["window_scores"]) == 3
    rows = table.splitlines()[2:]
    assert [row[:10] for row in rows] == ["blocks 0-1", "blocks 1-2", "blocks 2-3"]
    assert "protected" in rows[0] and "first" in rows[result["order"][0]]


def test_score_by_a_function_of_the_users(jprune, model, windows, tmp_path, monkeypatch):
    (tmp_path / "mine_of_test.py").write_text(
        "def up(llama, ids, granularity):\n    return range(llama.num_layers, 0, -1)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    out = tmp_path / "s.json"
    assert jprune("score", f"--model={model}", "--criterion=mine_of_test:up",
                  f"--data={windows[0]}", f"--out={out}")[0] == 0  # fmt: skip
    assert read(out)["scores"] == [4, 3, 2, 1] and read(out)["order"] == [3, 2, 1, 0]


def test_prune_blocks_keeps_tensors_bit_for_bit(jprune, model, tmp_path):
    out = tmp_path / "p"
    status, table, err = jprune("prune", f"--model={model}", "--blocks=1-2,-1", f"--out={out}")
    assert status == 0
    assert "without 1, 2, 3" in table and "-75.0%" in table
    assert f"from_pretrained('{out}')" in err
    full, left = tensors(model), tensors(out)
    assert left.keys() == {n for n in full if "layers." not in n or "layers.0." in n}
    assert all(np.array_equal(left[name], full[name]) for name in left)
    config = read(out / "config.json")
    assert config["num_hidden_layers"] == 1
    recipe = read(out / "recipe.json")
    assert recipe["steps"] == [{"op": "drop_blocks", "args": {"blocks": [1, 2, 3]}}]
    (source,) = recipe["sources"]
    assert source["path"] == str(model)
    assert source["sha256"] == checkpoints.checkpoint_sha256(model)


def test_prune_sublayers_keeps_the_structure(jprune, model, tmp_path):
    out = tmp_path / "p"
    argv = ("prune", f"--model={model}", "--attention=0,-1", "--mlp=1,3", f"--out={out}")
    status, table, err = jprune(*argv)
    assert status == 0 and "jprune.load" in err
    assert "without block 3; attention 0; MLP 1" in table
    blocks = checkpoints.load(out).blocks
    assert [(b.attn is None, b.mlp is None) for b in blocks] == [
        (True, False),
        (False, True),
        (False, False),
    ]
    hf = tmp_path / "hf"
    assert jprune(*argv[:-1], "--to=hf", f"--out={hf}")[0] == 0
    zeros = tensors(hf)["model.layers.0.self_attn.o_proj.weight"]
    assert zeros.size and not zeros.any()


def test_prune_again_and_apply_the_whole_recipe(jprune, model, tmp_path):
    one, two, rebuilt = (tmp_path / name for name in ("one", "two", "rebuilt"))
    assert jprune("prune", f"--model={model}", "--blocks=0", f"--out={one}")[0] == 0
    assert jprune("prune", f"--model={one}", "--blocks=0", f"--out={two}")[0] == 0
    assert jprune("apply", f"--recipe={two / 'recipe.json'}", f"--out={rebuilt}")[0] == 0
    expected, found = tensors(two), tensors(rebuilt)
    assert expected.keys() == found.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    full = tensors(model)
    name = "model.layers.{}.self_attn.q_proj.weight"
    assert np.array_equal(found[name.format(0)], full[name.format(2)])
    assert read(rebuilt / "recipe.json") == read(two / "recipe.json")


def test_apply_to_a_source_that_moved(jprune, refused, model, tmp_path):
    pruned, moved, recipe = tmp_path / "p", tmp_path / "moved", tmp_path / "r.json"
    assert jprune("prune", f"--model={model}", "--blocks=0", f"--out={pruned}")[0] == 0
    content = read(pruned / "recipe.json")
    content["sources"][0]["path"] = str(tmp_path / "gone")
    recipe.write_text(json.dumps(content))
    message = refused("apply", f"--recipe={recipe}", f"--out={tmp_path / 'a'}")
    assert message.startswith(f"no such checkpoint: {tmp_path / 'gone'}")
    os.symlink(model, moved)
    argv = ("apply", f"--recipe={recipe}", f"--out={tmp_path / 'a'}")
    assert jprune(*argv, f"--model={moved}")[0] == 0
    assert "is not the source of" in refused(*argv, f"--model={pruned}")


def test_apply_takes_the_model_for_a_source_that_the_recipe_does_not_name(
    jprune, refused, model, tmp_path
):
    recipe, out, again = (tmp_path / name for name in ("r.json", "a", "again"))
    steps = [{"op": "drop_blocks", "args": {"blocks": [0, 2]}}]
    recipe.write_text(json.dumps({"version": 1, "sources": [], "steps": steps}))
    argv = ("apply", f"--recipe={recipe}", f"--out={out}")
    assert refused(*argv).endswith("its steps need exactly one: give --model=...")
    assert jprune(*argv, f"--model={model}")[0] == 0
    found, full = tensors(out), tensors(model)
    name = "model.layers.{}.mlp.up_proj.weight"
    for new, old in enumerate((1, 3)):
        assert np.array_equal(found[name.format(new)], full[name.format(old)])
    (source,) = read(out / "recipe.json")["sources"]
    assert source["path"] == str(model)
    assert source["sha256"] == checkpoints.checkpoint_sha256(model)
    assert jprune("apply", f"--recipe={out / 'recipe.json'}", f"--out={again}")[0] == 0
    assert all(np.array_equal(array, found[name]) for name, array in tensors(again).items())


def test_apply_refuses_sources_that_are_no_list(refused, model, tmp_path):
    recipe = tmp_path / "r.json"
    for sources in (None, 3, {"path": "m"}):
        recipe.write_text(json.dumps({"version": 1, "sources": sources, "steps": []}))
        message = refused("apply", f"--recipe={recipe}", f"--model={model}", "--out=o")
        assert message.startswith("the sources of this recipe are ")


def test_export_both_ways_and_back(jprune, refused, model, tmp_path):
    orbax, back = tmp_path / "orbax", tmp_path / "back"
    status, table, _ = jprune("export", f"--model={model}", "--to=orbax", f"--out={orbax}")
    assert status == 0 and "float32" in table
    assert jprune("export", f"--model={orbax}", f"--out={back}")[0] == 0
    expected, found = tensors(model), tensors(back)
    assert expected.keys() == found.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert (back / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()


def test_export_strict(jprune, refused, model, tmp_path):
    part, out = tmp_path / "part", tmp_path / "out"
    assert jprune("prune", f"--model={model}", "--mlp=1", f"--out={part}")[0] == 0
    message = refused("export", f"--model={part}", "--strict", f"--out={out}")
    assert "mlp of layer 1" in message and "no Hugging Face form" in message
    assert not out.exists()
    assert jprune("export", f"--model={part}", f"--out={out}")[0] == 0


def test_dtype(jprune, model, tmp_path):
    out = tmp_path / "half"
    assert jprune("export", f"--model={model}", "--dtype=bfloat16", f"--out={out}")[0] == 0
    assert checkpoints.load(out, "checkpoint").dtype == jnp.bfloat16
    name = "model.layers.2.mlp.down_proj.weight"
    assert tensors(out)[name].dtype == jnp.bfloat16
    assert np.array_equal(tensors(out)[name], tensors(model)[name].astype(jnp.bfloat16))


def test_repeating_a_command_gives_the_same_output(jprune, model, tmp_path):
    out = tmp_path / "p"
    argv = ("prune", f"--model={model}", "--blocks=2", f"--out={out}")
    assert jprune(*argv)[0] == 0
    first = {p.name: p.read_bytes() for p in out.iterdir()}
    assert jprune(*argv)[0] == 0
    assert {p.name: p.read_bytes() for p in out.iterdir()} == first
    assert [p.name for p in tmp_path.iterdir()] == ["p"]
