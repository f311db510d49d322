"""FLOPs counted by hand and by XLA."""

import jax

from jprune.llama import abstract, forward, forward_flops, stack
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
