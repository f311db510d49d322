"""FLOPs counted by hand and by XLA."""

import dataclasses

import jax
import numpy as np

from jprune.llama import abstract, forward, forward_flops, named_params, stack
from jprune.llama.flops import training_flops
from jprune.retrain import ADAPTERS, Batch, gradients, next_token_loss, split
from jprune.transforms import add_lora
from tests.tiny import CONFIG, tiny, windows


def test_a_count_by_hand():
    # Per token and block: q, o 32x32; k, v 32x16; three MLP matrices 32x56; attention over
    # (9 + 1) / 2 positions on average, twice 32 wide. Head 32x97.
    block = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 56) + 2 * 2 * 5 * 32
    expected = 18 * (3 * block + 2 * 32 * 97)
    assert forward_flops(tiny(3), 18, 9) == expected
    assert forward_flops(stack(tiny(3)), 18, 9) == expected
    assert forward_flops(abstract(CONFIG, 3), 18, 9) == expected


def test_a_sliding_window_sees_less():
    # In windows of 9 with a sliding one of 4, positions see 1, 2, 3 and then 4: 30 in all.
    saved = forward_flops(tiny(1), 9, 9) - forward_flops(tiny(1, sliding_window=4), 9, 9)
    assert abs(saved - 2 * 2 * (45 - 30) * 32) < 9
    assert forward_flops(tiny(1, sliding_window=64), 9, 9) == forward_flops(tiny(1), 9, 9)


def test_removed_sublayers_cost_nothing():
    llama = tiny(2)
    bare = llama.blocks[0].replace(attn=None, attn_norm=None)
    saved = forward_flops(llama, 1, 9) - forward_flops(
        llama.replace(blocks=(bare, llama.blocks[1])), 1, 9
    )
    assert saved == 2 * (2 * 32 * 32 + 2 * 32 * 16) + 2 * 2 * 5 * 32


def test_xla_counts_about_the_same():
    llama, ids = tiny(2), windows(4, 32)
    counted = jax.jit(forward).lower(llama, ids).compile().cost_analysis()["flops"]
    # XLA multiplies the whole square of attention and counts norms, softmax and rotations too.
    assert 1.0 < counted / forward_flops(llama, ids.size, 32) < 1.25


def test_training_by_hand():
    # As above; every weight's gradient costs its product, what it reads as much again.
    weights, attention = 2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 56, 2 * 5 * 32
    forward, head = 3 * 2 * (weights + attention), 2 * 32 * 97
    backward = 3 * 2 * (weights + 2 * attention)
    llama = tiny(3)
    for form in (llama, stack(llama)):
        full = training_flops(form, named_params(form), 18, 9)
        assert full == 18 * (forward + backward + 3 * 2 * weights + 3 * head)
        adapted = add_lora(rank=2, targets=["q_proj"])(form)
        names = [n for n in named_params(adapted) if n.endswith((".kernel.a", ".kernel.b"))]
        lora = training_flops(adapted, names, 18, 9)
        assert lora == 18 * (forward + backward + 2 * head + 3 * 3 * 2 * 2 * (32 + 32))
    last = [name for name in named_params(llama) if name.startswith("layers.2.")]
    expected = forward + backward // 3 + 2 * weights + 2 * head
    assert training_flops(llama, last, 18, 9) == 18 * expected
    tied = tiny(3, tie_word_embeddings=True)
    assert training_flops(tied, named_params(tied), 18, 9) == full


def step_flops(llama, where, ids):
    """What XLA counts of the gradients of one micro-batch."""
    params, rest = split(llama, where)
    mask = np.ones((1, *ids.shape), bool)

    @jax.jit
    def run(params, frozen, ids):
        model = dataclasses.replace(rest, frozen=frozen)
        return gradients(params, model, Batch(ids, mask), None, next_token_loss)

    return run.lower(params, rest.frozen, ids[None]).compile().cost_analysis()["flops"]


def test_xla_counts_about_the_same_in_training():
    """Adapters cost two thirds of a full step and a little: no frozen weight has a gradient."""
    llama, ids = tiny(2, intermediate_size=256, hidden_size=128, head_dim=32), windows(4, 32)
    adapted = add_lora(rank=2)(llama)
    full, lora = step_flops(llama, "**", ids), step_flops(adapted, ADAPTERS, ids)
    names = [n for n in named_params(adapted) if n.endswith((".kernel.a", ".kernel.b"))]
    ours = [
        training_flops(llama, named_params(llama), ids.size, 32),
        training_flops(adapted, names, ids.size, 32),
    ]
    assert 1.0 < full / ours[0] < 1.15 and 1.0 < lora / ours[1] < 1.15
    assert 0.66 < lora / full < 0.75
