"""Generated tokens against a loop that runs the whole text again for each."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jprune.core.errors import InputError
from jprune.core.mesh import use_mesh
from jprune.llama import forward, generate, init, stack
from jprune.llama.choose_token import Sampling
from jprune.llama.decode_layout import decode_layout
from jprune.llama.generate import decode
from jprune.transforms import drop_blocks, drop_sublayers
from tests.tiny import FAMILIES, family, tiny

RNG = np.random.default_rng(0)
PROMPTS = [RNG.integers(0, 97, length).tolist() for length in (1, 9, 3, 33, 12, 5)]
NEW = 14


run = jax.jit(forward)


def by_hand(llama, prompt, new, stop=()):
    """The most likely tokens, each from a pass over all that is before it."""
    ids = list(prompt)
    for _ in range(new):
        logits = run(llama, np.array([ids + [0] * (64 - len(ids))], np.int32))[0, len(ids) - 1]
        ids.append(int(jnp.argmax(logits)))
        if ids[-1] in stop:
            break
    return ids[len(prompt) :]


@pytest.mark.parametrize("name", FAMILIES)
def test_families(name):
    llama = family(name)
    found = generate(llama, PROMPTS, NEW, stop=())
    assert found == [by_hand(llama, prompt, NEW) for prompt in PROMPTS]


@pytest.mark.parametrize(
    "change",
    [
        drop_blocks([1]),
        drop_sublayers(attention=[0, 2]),
        drop_sublayers(mlp=[1], attention=[3]),
        drop_sublayers(attention=[0, 1, 2, 3]),
        stack,
    ],
    ids=["blocks", "attention", "both", "no-attention", "stacked"],
)
def test_pruned_models(change):
    llama = change(tiny())
    found = generate(llama, PROMPTS[:3], NEW, stop=())
    assert found == [by_hand(llama, prompt, NEW) for prompt in PROMPTS[:3]]


def test_batches_change_nothing_and_keep_the_order():
    llama = tiny()
    layout = decode_layout(llama)
    expected = [generate(layout, [prompt], NEW, stop=())[0] for prompt in PROMPTS]
    for size in (1, 2, 4, 257):
        assert generate(layout, PROMPTS, NEW, stop=(), batch_size=size) == expected
    many = PROMPTS * 43
    assert generate(layout, many[:257], 3, stop=(), batch_size=257) == [
        tokens[:3] for tokens in (expected * 43)[:257]
    ]


def test_a_row_ends_with_what_stops_it():
    llama = tiny()
    free = generate(llama, PROMPTS, NEW, stop=())
    stop = (free[0][0], free[1][4])
    found = generate(llama, PROMPTS, NEW, stop=stop)
    assert found == [by_hand(llama, prompt, NEW, stop) for prompt in PROMPTS]
    assert found[0] == [stop[0]] and len(found[1]) <= 5
    # By default the model's EOS, one or several.
    for eos in (stop[0], stop):
        config = dataclasses.replace(llama.config, eos_token_id=eos)
        found = generate(llama.replace(config=config), PROMPTS[:1], NEW)
        assert found == [[stop[0]]]


def test_the_loop_ends_when_all_have_stopped():
    llama = tiny()
    free = generate(llama, PROMPTS[:1], NEW, stop=())[0]
    ids, lengths = np.zeros((3, 32), np.int32), np.array([1, 0, 0])
    ids[0, 0] = PROMPTS[0][0]
    args = (decode_layout(llama), ids, lengths, jax.random.key(0), NEW, Sampling())
    new, counts = decode(*args, (free[2],))
    first = free.index(free[2]) + 1
    assert counts[0] == first and not np.any(new[:, first:]) and not np.any(new[1:])


def test_no_prompt():
    assert generate(tiny(), [], 3) == []


def test_the_window_slides_beyond_the_prompt():
    llama = family("mistral", sliding_window=7)
    long = RNG.integers(0, 97, 40).tolist()
    assert generate(llama, [long, long[:3]], 20, stop=()) == [
        by_hand(llama, long, 20),
        by_hand(llama, long[:3], 20),
    ]


@pytest.mark.parametrize("mesh", ["data:2", "tensor:2"])
def test_on_a_mesh(mesh):
    llama = tiny()
    expected = generate(llama, PROMPTS[:4], NEW, stop=())
    with use_mesh(mesh + ",fsdp:4"):
        assert generate(llama, PROMPTS[:4], NEW, stop=()) == expected


def test_the_same_seed_draws_the_same():
    llama = tiny()
    warm = Sampling(temperature=1.0)
    one, again, other = (
        generate(llama, PROMPTS, NEW, sampling=warm, stop=(), seed=seed) for seed in (0, 0, 1)
    )
    assert one == again != other


def test_half_precision():
    llama = jax.tree.map(lambda x: x.astype(jnp.bfloat16), tiny())
    found = generate(llama, PROMPTS[:2], 3, stop=())
    assert [len(row) for row in found] == [3, 3]


@pytest.mark.parametrize(
    ("prompts", "new", "message"),
    [
        ([[1], []], 3, "prompt 1 has no tokens"),
        ([[97]], 3, "outside the vocabulary of 97"),
        ([[-1]], 3, "outside the vocabulary of 97"),
        ([[1] * 60], 5, "has 60 tokens, and 5 new ones make it longer than the 64"),
        ([[1]], 0, "max_new_tokens is an integer from 1 on"),
    ],
)
def test_what_cannot_be(prompts, new, message):
    with pytest.raises(InputError, match=message):
        generate(tiny(1), prompts, new)


def test_one_token_fills_the_context():
    llama = tiny(1)
    prompt = [1] * 63
    assert generate(llama, [prompt], 1, stop=()) == [by_hand(llama, prompt, 1)]


def test_one_program_for_many_lengths():
    llama = init(tiny().config, 1, jax.random.key(0))
    layout = decode_layout(llama)
    before = decode._cache_size()
    for prompts in ([[1, 2]], [[3] * 20], [[5]]):
        generate(layout, prompts, 4, stop=())
    assert decode._cache_size() == before + 1
