"""Which heads and neurons stay, against the definition written out."""

import json
import logging

import jax
import numpy as np
import pytest

from jprune.core import InputError
from jprune.llama import forward, stack, widths
from jprune.llama.forward import apply_block, context, embed
from jprune.llama.masks import count
from jprune.scores import choose_widths
from jprune.scores.sparsify import sparsify
from jprune.scores.width import highest, kept_heads, kept_neurons
from jprune.transforms import drop_sublayers, narrow
from tests.tiny import family, tiny, windows

HEADS, HEAD_DIM, NEURONS = 4, 8, 56
LLAMA = tiny(3, num_attention_heads=8, num_key_value_heads=HEADS)
IDS = windows(5, 12)


def squares(llama, index):
    """s of every input of a block, from a run of the whole model on all windows at once."""
    h, ctx, seen = embed(llama, IDS), context(llama.config, IDS.shape[1]), {}
    for block in llama.blocks[: index + 1]:
        h = apply_block(block, h, ctx, tap=lambda name, x: seen.update({name: np.asarray(x)}))
    return {name: np.square(x, dtype=np.float64).sum((0, 1)) / len(IDS) for name, x in seen.items()}


def by_definition(llama, index):
    """Scores of a block's heads and neurons, one after the other."""
    s, block = squares(llama, index), llama.blocks[index]

    def a(linear, name):
        return np.abs(np.asarray(linear.kernel, np.float64)) * np.sqrt(s[name])[:, None]

    q, k, v = (a(getattr(block.attn, x), "attn_in") for x in "qkv")
    o = a(block.attn.o, "attn_out")
    gate, up = a(block.mlp.gate, "mlp_in"), a(block.mlp.up, "mlp_in")
    down = a(block.mlp.down, "mlp_out")
    heads, neurons = [], []
    width = q.shape[1] // (k.shape[1] // HEAD_DIM)
    for head in range(k.shape[1] // HEAD_DIM):
        queries = slice(head * width, (head + 1) * width)
        keys = slice(head * HEAD_DIM, (head + 1) * HEAD_DIM)
        parts = (q[:, queries], k[:, keys], v[:, keys], o[queries])
        heads.append(np.sqrt(sum((part**2).sum() for part in parts)))
    for neuron in range(gate.shape[1]):
        parts = (gate[:, neuron], up[:, neuron], down[neuron])
        neurons.append(np.sqrt(sum((part**2).sum() for part in parts)))
    return np.array(heads), np.array(neurons)


@pytest.mark.parametrize("statistics", ["pruned", "dense"])
@pytest.mark.parametrize("form", [lambda x: x, stack], ids=["tuple", "stacked"])
def test_the_lowest_by_the_norm_of_the_metric_go(statistics, form):
    density = [0.75, 0.3, 0.5]
    found = choose_widths(form(LLAMA), IDS, density=density, statistics=statistics, batch_size=2)
    args = found.to_json()
    assert [len(x) for x in args["heads"]] == [3, 1, 2]
    assert [len(x) for x in args["neurons"]] == [42, 17, 28]
    read = LLAMA
    for index in range(3):
        heads, neurons = by_definition(read, index)
        np.testing.assert_allclose(found.head_scores[index], heads, rtol=1e-4)
        np.testing.assert_allclose(found.neuron_scores[index], neurons, rtol=1e-4)
        for kept, scores in ((found.heads, heads), (found.neurons, neurons)):
            order = np.argsort(scores)
            assert list(kept[index]) == sorted(order[-len(kept[index]) :])
        if statistics == "pruned":  # the next block reads what the narrowed ones put out
            cut = {what: one[: index + 1] + [None] * (2 - index) for what, one in args.items()}
            read = narrow(**cut)(LLAMA)
    json.dumps(args)
    assert [w.heads for w in widths(narrow(**args)(LLAMA))] == [3, 1, 2]


def test_the_two_kinds_of_statistics_differ():
    pruned, dense = (
        choose_widths(LLAMA, IDS, density=0.3, statistics=s) for s in ("pruned", "dense")
    )
    np.testing.assert_array_equal(pruned.head_scores[0], dense.head_scores[0])
    assert not np.allclose(pruned.head_scores[1], dense.head_scores[1], rtol=1e-2)


def test_a_head_of_zeros_goes_first():
    block = LLAMA.blocks[1]
    queries = slice(4 * HEAD_DIM, 6 * HEAD_DIM)  # those of key-value head 2
    keys = slice(2 * HEAD_DIM, 3 * HEAD_DIM)
    attn = block.attn
    attn = attn.replace(
        q=attn.q.replace(kernel=attn.q.kernel.at[:, queries].set(0)),
        k=attn.k.replace(kernel=attn.k.kernel.at[:, keys].set(0)),
        v=attn.v.replace(kernel=attn.v.kernel.at[:, keys].set(0)),
        o=attn.o.replace(kernel=attn.o.kernel.at[queries].set(0)),
    )
    llama = LLAMA.replace(blocks=(LLAMA.blocks[0], block.replace(attn=attn), LLAMA.blocks[2]))
    found = choose_widths(llama, IDS, density=[1.0, 0.75, 1.0], parts=["attention"])
    assert found.head_scores[1][2] == 0 and found.heads == (None, (0, 1, 3), None)
    assert found.neurons == (None, None, None)
    thin = narrow(**found.to_json())(llama)
    np.testing.assert_allclose(forward(thin, IDS), forward(llama, IDS), atol=1e-5, rtol=0)


def test_parts_and_removed_sublayers_are_left_alone():
    llama = drop_sublayers(attention=[0], mlp=[2])(LLAMA)
    found = choose_widths(llama, IDS, density=0.5)
    assert [None if x is None else len(x) for x in found.heads] == [None, 2, 2]
    assert [None if x is None else len(x) for x in found.neurons] == [28, 28, None]
    assert found.head_scores[0] is None and found.neuron_scores[2] is None
    narrow(**found.to_json())(llama)
    only = choose_widths(llama, IDS, density=0.5, parts=("mlp",))
    assert only.heads == (None, None, None) and only.neurons[0] == found.neurons[0]


def test_density_one_keeps_everything():
    found = choose_widths(LLAMA, IDS, density=1.0, multiple=16)
    assert found.to_json() == {"heads": 3 * [None], "neurons": 3 * [None]}


def test_ties_go_by_index():
    assert highest(np.array([1.0, 1, 1, 2], np.float32), 2) == (2, 3)
    assert highest(np.array([3.0, 1, 2], np.float32), 3) is None


@pytest.mark.parametrize(
    ("heads", "density", "kept"),
    [(8, 0.7, 6), (8, 0.6875, 6), (8, 0.68, 5), (8, 0.0, 1), (8, 1.0, 8), (1, 0.3, 1), (5, 0.3, 2)],
)
def test_heads_are_rounded_to_the_nearest(heads, density, kept):
    assert kept_heads(heads, density) == kept


@pytest.mark.parametrize(
    ("neurons", "density", "multiple", "kept"),
    [
        (10, 0.3, 1, 3),
        (688, 0.3, 1, 207),
        (100, 0.001, 1, 1),
        (688, 0.3, 8, 208),
        (688, 0.25, 8, 176),  # 172 lies half way
        (56, 0.1, 16, 16),
        (56, 0.95, 16, 48),
        (50, 0.95, 16, 48),
        (10, 0.5, 16, 10),
        (50, 1.0, 16, 50),
    ],
)
def test_neurons_are_rounded_down_and_to_multiples(neurons, density, multiple, kept):
    assert kept_neurons(neurons, density, multiple) == kept


class TestUniform:
    def test_all_blocks_get_one_width_by_the_mean(self):
        density = [0.8, 0.2, 0.5]
        found = choose_widths(LLAMA, IDS, density=density, uniform=True, multiple=8)
        assert widths(narrow(**found.to_json())(LLAMA)) == 3 * ((2, 2, 32),)
        own = choose_widths(LLAMA, IDS, density=density)
        assert {len(x) for x in own.neurons} == {45, 12, 28}

    def test_a_number_of_heads_that_llama_refuses_gives_way_to_the_nearest(self, caplog):
        # 8 x 3 query heads do not divide 32; of 2, 4 and 8 the nearest to 6 is 8, the greater.
        with caplog.at_level(logging.WARNING, "jprune"):
            found = choose_widths(LLAMA, IDS, density=0.75, uniform=True)
        assert found.heads == (None, None, None)
        assert "4 of 4 key-value heads stay instead of 3" in caplog.text
        caplog.clear()
        choose_widths(LLAMA, IDS, density=0.75, uniform=True, parts=["mlp"])
        assert "key-value heads stay" not in caplog.text
        mistral = family("mistral", num_attention_heads=8, num_key_value_heads=4)
        found = choose_widths(mistral, IDS, density=0.75, uniform=True)
        assert [len(x) for x in found.heads] == [3, 3, 3]

    def test_blocks_that_differ_already_meet_at_the_narrowest(self):
        uneven = narrow(heads=[[0, 1], None, None], neurons=[None, range(40), None])(LLAMA)
        found = choose_widths(uneven, IDS, density=0.5, uniform=True)
        assert widths(narrow(**found.to_json())(uneven)) == 3 * ((1, 2, 20),)

    def test_different_groups_are_refused(self):
        other = tiny(1, num_attention_heads=8, num_key_value_heads=8)
        llama = LLAMA.replace(blocks=(*LLAMA.blocks[:2], other.blocks[0]))
        with pytest.raises(InputError, match=r"key-value head \(\[1, 2\]\), so no width is"):
            choose_widths(llama, IDS, density=0.5, uniform=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"density": 0.5, "parts": ["mpl"]}, "unknown part 'mpl'; did you mean 'mlp'"),
        ({"density": 0.5, "statistics": "dens"}, "unknown statistics 'dens'; did you mean 'dense'"),
        ({"density": [0.5, 0.5]}, "2 densities for a model of 3 blocks"),
        ({"density": 1.5}, r"densities lie in \[0, 1\]"),
        ({"density": 0.5, "multiple": 0}, "a multiple of 1 or more, not 0"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(InputError, match=message):
        choose_widths(LLAMA, IDS, **options)


@pytest.mark.parametrize("criterion", ["magnitude", "wanda", "sparsegpt"])
def test_masks_on_a_narrowed_model(criterion):
    found = choose_widths(LLAMA, IDS, density=[0.75, 0.3, 0.5])
    thin = narrow(**found.to_json())(LLAMA)
    sparse = sparsify(thin, criterion, IDS, density=0.5)
    assert widths(sparse.llama) == widths(thin) == ((3, 2, 42), (1, 2, 17), (2, 2, 28))
    mask = sparse.masks["layers.1.mlp.down_proj.kernel"]
    assert mask.shape == (17, 32)
    # Of each output 8 of 17 go by Wanda; of the matrix 272 of 544 by the others.
    left = 9 * 32 if criterion == "wanda" else 272
    assert count(mask) == np.count_nonzero(sparse.llama.blocks[1].mlp.down.kernel) == left
    assert np.isfinite(np.asarray(jax.jit(forward)(sparse.llama, IDS))).all()


@pytest.mark.parametrize("statistics", ["pruned", "dense"])
@pytest.mark.parametrize("on_host", [False, True])
def test_a_pass_that_was_stopped_goes_on(statistics, on_host):
    llama = jax.tree.map(np.asarray, LLAMA) if on_host else LLAMA
    whole, found = choose_widths(LLAMA, IDS, density=0.5, statistics=statistics), []

    def after(index, heads, neurons):
        found.append((heads, neurons))
        if len(found) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        choose_widths(llama, IDS, density=0.5, statistics=statistics, after=after)
    seen = []
    again = choose_widths(
        llama,
        IDS,
        density=0.5,
        statistics=statistics,
        done=found,
        after=lambda index, heads, neurons: seen.append(index),
    )
    assert again == whole and seen == [2]
