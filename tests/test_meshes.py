"""Models spread over eight simulated devices: the same figures, and each device holds its part."""

import logging

import jax
import numpy as np
import pytest

from jprune.checkpoints import export_huggingface, load, save
from jprune.checkpoints.placement import bytes_per_device
from jprune.core import mesh as meshes
from jprune.evaluate import candidates, perplexity
from jprune.evaluate.batches import map_batches, window_batch_size
from jprune.llama import count_bytes, forward, stack, unstack
from jprune.llama.blockwise import advance, ends, nll_sums, start
from jprune.llama.masks import unpack
from jprune.llama.model import anonymous
from jprune.llama.names import named_params
from jprune.scores import score, sparsify
from jprune.transforms import drop_blocks, drop_sublayers
from tests.tiny import tiny, windows

MESH = "data:2,fsdp:2,tensor:2"
CRITERIA = {
    "magnitude": {},
    "perplexity": {},
    "taylor": {},
    "influence": {},
    "angular": {"remove": 2},
    "greedy": {"remove": 2},
}


def divisible(**changes):
    """A tiny model whose every width the mesh divides."""
    return tiny(3, **{"vocab_size": 96, **changes})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("meshes") / "model"
    export_huggingface(path, divisible())
    return path


def values(scores):
    found = scores.window_scores if scores.window_scores is not None else scores.scores
    return np.array([np.nan if value is None else value for value in found])


@pytest.mark.parametrize("criterion", CRITERIA)
def test_scores(folder, criterion):
    ids, options = windows(10, 16, vocab=96), CRITERIA[criterion]
    alone = score(load(folder), criterion, ids, **options)
    with meshes.use_mesh(MESH):
        spread = score(load(folder), criterion, ids, **options)
    assert spread.order == alone.order
    np.testing.assert_allclose(values(spread), values(alone), rtol=1e-5)


def test_batches_and_activations_are_split(folder):
    """Of eight windows each device has two: `tensor` splits what is computed for them."""
    with meshes.use_mesh(MESH):
        assert window_batch_size((7, 16)) == 8
        llama, ids = anonymous(load(folder)), meshes.put_batch(windows(8, 16, vocab=96))
        h, ctx = start(ends(llama), ids)
        for held in (ids, h, advance(llama.blocks[0], h, ctx), nll_sums(ends(llama), h, ids)):
            assert {shard.data.shape[0] for shard in held.addressable_shards} == {2}
            assert held.sharding.shard_shape(held.shape)[1:] == held.shape[1:]


def test_on_more_devices_more_candidates_share_prefixes(folder, monkeypatch):
    ids = windows(8, 16, vocab=96)
    groups = []

    def counted(function, ids, batch_size, label):
        groups.append(label)
        return map_batches(function, ids, batch_size, label)

    monkeypatch.setattr(candidates, "map_batches", counted)
    monkeypatch.setattr(candidates, "MAX_STATE_BYTES", 2 * 16 * 32 * 4)  # of two windows
    with meshes.use_mesh(MESH):
        score(load(folder), "perplexity", ids, batch_size=4)
    # The full model and three without a block: each device has one window of each.
    assert groups == ["NLL of 2 candidates"] * 2


@pytest.mark.parametrize("num", [1, 7, 16])
def test_perplexity_of_any_number_of_windows(folder, num):
    ids = windows(num, 16, vocab=96)
    alone = perplexity(load(folder), ids)
    with meshes.use_mesh(MESH):
        spread = perplexity(load(folder), ids)
        single = perplexity(load(folder), ids, batch_size=1)
    np.testing.assert_allclose(spread.window_nll, alone.window_nll, rtol=1e-5)
    np.testing.assert_allclose(single.window_nll, alone.window_nll, rtol=1e-5)


def test_on_a_trained_model(shared):
    with np.load(shared / "goldens" / "llama-16m.npz") as file:
        ids = file["calib_128_10"].astype(np.int32)
    model = shared / "models" / "llama-16m"
    alone = load(model, "float32")
    expected, ppl = score(alone, "perplexity", ids), perplexity(alone, ids).ppl
    with meshes.use_mesh(MESH):
        spread = load(model, "float32")
        found = score(spread, "perplexity", ids)
        assert perplexity(spread, ids).ppl == pytest.approx(ppl, rel=1e-5)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-5)


def held_at_most(llama, parts):
    """What a device may hold of a model of which all but the whole tensors are in `parts`."""
    replicated = {name for name in named_params(llama) if "norm" in name}
    whole = sum(count_bytes(named_params(llama)[name]) for name in replicated)
    return (count_bytes(llama) - whole) / parts * 1.05 + whole


@pytest.mark.parametrize("form", ["huggingface", "orbax"])
def test_each_device_holds_its_part(folder, tmp_path, form):
    if form == "orbax":
        save(tmp_path / "orbax", load(folder))
        folder = tmp_path / "orbax"
    with meshes.use_mesh(MESH):
        llama = load(folder)
        assert bytes_per_device(llama) <= held_at_most(llama, parts=4)
        stacked = stack(llama, consume=True)
        assert bytes_per_device(stacked) <= held_at_most(stacked, parts=4)
        pruned = drop_sublayers(attention=[1])(drop_blocks([0])(unstack(stacked, consume=True)))
        assert bytes_per_device(pruned) <= held_at_most(pruned, parts=4)
    assert bytes_per_device(load(folder)) == count_bytes(stacked)


def test_tensors_are_split_by_their_logical_axes(folder):
    with meshes.use_mesh(MESH):
        params = named_params(load(folder))
    attention = "layers.0.self_attn."
    for name, spec in {
        "embed_tokens.embedding": ("tensor", "fsdp"),
        f"{attention}q_proj.kernel": ("fsdp", "tensor"),
        f"{attention}o_proj.kernel": ("tensor", "fsdp"),
        "layers.2.mlp.down_proj.kernel": ("tensor", "fsdp"),
        "lm_head.kernel": ("fsdp", "tensor"),
    }.items():
        assert tuple(params[name].sharding.spec) == spec, name


def test_heads_that_do_not_divide_stay_whole(tmp_path, caplog):
    # 4 key-value heads of 8 columns: 8 devices divide the 32 columns, but not the heads.
    llama = divisible(num_attention_heads=8, num_key_value_heads=4)
    export_huggingface(tmp_path / "model", llama)
    ids = windows(2, 16, vocab=96)
    with caplog.at_level(logging.INFO, "jprune"), meshes.use_mesh("tensor:8"):
        spread = load(tmp_path / "model")
        logits = jax.jit(forward)(spread, ids)
    names = ["k_proj", "v_proj"]
    lines = [line for line in caplog.messages if "is replicated" in line]
    assert [name for name in names if any(name in line for line in lines)] == names
    assert len(lines) == 2 and "kv_heads of size 4" in lines[0]  # one line for all three layers
    params = named_params(spread)
    assert tuple(params["layers.0.self_attn.k_proj.kernel"].sharding.spec) == (None, None)
    assert tuple(params["layers.0.self_attn.q_proj.kernel"].sharding.spec) == (None, "tensor")
    np.testing.assert_allclose(logits, forward(load(tmp_path / "model"), ids), atol=1e-4)


def test_orbax_from_one_mesh_to_another(folder, tmp_path):
    llama = load(folder)
    with meshes.use_mesh(MESH):
        save(tmp_path / "saved", stack(load(folder)))
    places = {}
    for mesh in ("fsdp:8", "tensor:4,data:2", None):
        with meshes.use_mesh(mesh):
            restored = load(tmp_path / "saved")
        places[mesh] = bytes_per_device(restored)
        jax.tree.map(np.testing.assert_array_equal, unstack(restored), unstack(stack(llama)))
    assert places["fsdp:8"] < places["tensor:4,data:2"] < places[None] == count_bytes(llama)


def test_an_export_is_the_same_from_everywhere(folder, tmp_path):
    with meshes.use_mesh(MESH):
        export_huggingface(tmp_path / "again", load(folder))
    again, first = (path / "model.safetensors" for path in (tmp_path / "again", folder))
    assert again.read_bytes() == first.read_bytes()


@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "sparsegpt"])
def test_masks(folder, criterion):
    """Neither the size of batches nor the number of devices decides what goes."""
    ids = windows(12, 16, vocab=96)

    def masks(batch_size=None):
        found = sparsify(load(folder), criterion, ids, density=0.5, batch_size=batch_size).masks
        return {name: unpack(mask) for name, mask in found.items()}

    alone = masks(batch_size=12)
    with meshes.use_mesh(MESH):
        others = [masks(), masks(batch_size=4)]
    total = sum(mask.size for mask in alone.values())
    for other in (masks(batch_size=5), *others):
        changed = sum(int((alone[name] != other[name]).sum()) for name in alone)
        assert changed == 0 if criterion == "magnitude" else changed < 1e-3 * total
