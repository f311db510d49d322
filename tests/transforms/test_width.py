"""Narrowing blocks: the algebra, and the models that result."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jprune.core.errors import InputError
from jprune.evaluate import perplexity
from jprune.llama import (
    Lora,
    Masked,
    Run,
    count_params,
    fold_kernels,
    forward,
    next_token_nll,
    run_plan,
    stack,
    unstack,
    virtual,
    widths,
)
from jprune.llama.forward import context, embed
from jprune.llama.loss import token_nll
from jprune.scores import score
from jprune.transforms import chain, drop_blocks, drop_sublayers, from_step, narrow
from tests.llama.test_stack import same
from tests.tiny import FAMILIES, family, tiny, windows

HEADS, HEAD_DIM, NEURONS = 4, 8, 56
# Four key-value heads with two query heads each.
LLAMA = tiny(4, num_attention_heads=8, num_key_value_heads=HEADS)
IDS = windows(3, 16)
UNEVEN = narrow(heads=[[1, 3], None, [0], [0, 1, 2]], neurons=[None, [7, 2, 40], range(30), [55]])
logits = jax.jit(forward)


def some(rng, count, blocks):
    """Random things to keep, at least one per block; now and then all."""
    sizes = [int(rng.integers(1, n + 1)) for n in count]
    chosen = [
        sorted(rng.choice(n, size, False).tolist()) for n, size in zip(count, sizes, strict=True)
    ]
    return [None if rng.random() < 0.2 else one for one in chosen[:blocks]]


def zeroed(llama, heads, neurons, group):
    """`llama` whose heads and neurons that are not kept put out nothing."""
    blocks = []
    for block, kept, left in zip(llama.blocks, heads, neurons, strict=True):
        width = group * llama.config.head_dim
        if kept is not None:
            on = np.isin(np.arange(block.attn.o.kernel.shape[0]) // width, kept)
            o = block.attn.o.replace(kernel=block.attn.o.kernel * on[:, None])
            block = block.replace(attn=block.attn.replace(o=o))
        if left is not None:
            on = np.isin(np.arange(block.mlp.down.kernel.shape[0]), left)
            down = block.mlp.down.replace(kernel=block.mlp.down.kernel * on[:, None])
            block = block.replace(mlp=block.mlp.replace(down=down))
        blocks.append(block)
    return llama.replace(blocks=tuple(blocks))


@pytest.mark.parametrize("name", FAMILIES)
def test_keeping_everything_is_the_identity(name):
    llama = family(name)
    everything = narrow(heads=3 * [[0, 1]], neurons=3 * [list(range(56))[::-1]])
    for nothing in (narrow(), narrow(heads=3 * [None]), everything):
        same(nothing(llama), llama)
        same(nothing(stack(llama)), stack(llama))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_narrow_model_computes_what_one_does_whose_rest_puts_out_nothing(name):
    changes = {"output_bias": True, "mlp_bias": True} if name == "llama" else {}
    llama = family(name, **changes)
    heads, neurons = [[1], None, [0]], [[3, 9, 50], list(range(20)), None]
    narrowed = narrow(heads=heads, neurons=neurons)(llama)
    assert [(w.heads, w.group, w.neurons) for w in widths(narrowed)] == [
        (1, 2, 3),
        (2, 2, 20),
        (1, 2, 56),
    ]
    assert narrowed.origins == llama.origins
    np.testing.assert_allclose(
        logits(narrowed, IDS), logits(zeroed(llama, heads, neurons, 2), IDS), atol=2e-5, rtol=0
    )


def test_weights_of_zero_can_go_without_a_change():
    blocks = list(LLAMA.blocks)
    attn, mlp = blocks[1].attn, blocks[1].mlp
    queries, keys = slice(4 * HEAD_DIM, 6 * HEAD_DIM), slice(2 * HEAD_DIM, 3 * HEAD_DIM)

    def without(linear, *where):
        return linear.replace(kernel=linear.kernel.at[where].set(0))

    attn = attn.replace(
        q=without(attn.q, slice(None), queries),
        k=without(attn.k, slice(None), keys),
        v=without(attn.v, slice(None), keys),
        o=without(attn.o, queries),
    )
    mlp = mlp.replace(
        gate=without(mlp.gate, slice(None), 17),
        up=without(mlp.up, slice(None), 17),
        down=without(mlp.down, 17),
    )
    blocks[1] = blocks[1].replace(attn=attn, mlp=mlp)
    llama = LLAMA.replace(blocks=tuple(blocks))
    left = [n for n in range(NEURONS) if n != 17]
    thin = narrow(heads=[None, [0, 1, 3], None, None], neurons=[None, left, None, None])(llama)
    assert count_params(llama) - count_params(thin) == 32 * (6 * HEAD_DIM + 3)
    np.testing.assert_allclose(logits(thin, IDS), logits(llama, IDS), atol=1e-5, rtol=0)


@pytest.mark.parametrize("seed", range(6))
def test_two_narrowings_are_one(seed):
    rng = np.random.default_rng(seed)
    steps, at_once = [], {}
    for what, has in (("heads", HEADS), ("neurons", NEURONS)):
        first = some(rng, 4 * [has], 4)
        left = [list(range(has)) if one is None else one for one in first]
        second = some(rng, [len(one) for one in left], 4)
        at_once[what] = [
            one if two is None else [one[index] for index in two]
            for one, two in zip(left, second, strict=True)
        ]
        steps.append((what, first, second))
    both = [narrow(**{what: pair[at] for what, *pair in steps}) for at in (0, 1)]
    for form in (LLAMA, stack(LLAMA)):
        same(chain(*both)(form), narrow(**at_once)(form))


@pytest.mark.parametrize("seed", range(4))
def test_narrowing_and_dropping_commute(seed):
    rng = np.random.default_rng(seed)
    gone = int(rng.integers(4))
    kept = {"heads": some(rng, 4 * [HEADS], 4), "neurons": some(rng, 4 * [NEURONS], 4)}
    rest = {what: one[:gone] + one[gone + 1 :] for what, one in kept.items()}
    for form in (LLAMA, stack(LLAMA)):
        one = chain(narrow(**kept), drop_blocks([gone]))(form)
        other = chain(drop_blocks([gone]), narrow(**rest))(form)
        same(unstack(one), unstack(other))
    lone = {"heads": kept["heads"], "neurons": [*kept["neurons"]]}
    lone["neurons"][gone] = None
    no_mlp = drop_sublayers(mlp=[gone])
    same(chain(narrow(**kept), no_mlp)(LLAMA), chain(no_mlp, narrow(**lone))(LLAMA))


def test_what_stays_untouched_is_not_copied():
    narrowed = UNEVEN(LLAMA)
    assert narrowed.blocks[1].attn is LLAMA.blocks[1].attn
    assert narrowed.blocks[0].mlp is LLAMA.blocks[0].mlp
    assert LLAMA.blocks[0].attn.q.kernel.shape == (32, 64)


def test_the_stacked_form_stays_stacked():
    narrowed = UNEVEN(stack(LLAMA))
    assert all(isinstance(part, Run) for part in narrowed.blocks)
    same(unstack(narrowed), UNEVEN(LLAMA))
    even = narrow(heads=[[0], [1], [2], [3]])(stack(LLAMA))
    assert len(even.blocks) == 1 and widths(even) == 4 * ((1, 2, NEURONS),)


def test_sizes_are_known_before_any_array_exists():
    for form in (LLAMA, stack(LLAMA)):
        shapes = jax.eval_shape(UNEVEN, form)
        assert widths(shapes) == ((2, 2, 56), (4, 2, 3), (1, 2, 30), (3, 2, 1))
        assert count_params(shapes) == count_params(UNEVEN(form))
        same(jax.jit(UNEVEN)(form), UNEVEN(form))


def test_adapters_and_masks_are_cut_like_their_weights():
    rng = np.random.default_rng(0)

    def wrapped(linear):
        a, b = (
            rng.normal(size=s) for s in ((linear.kernel.shape[0], 2), (2, linear.kernel.shape[1]))
        )
        lora = Lora(linear.kernel, *(jnp.asarray(x, jnp.float32) for x in (a, b)), 0.5)
        return linear.replace(
            kernel=Masked(lora, jnp.asarray(rng.random(linear.kernel.shape) < 0.5))
        )

    block = LLAMA.blocks[0]
    attn = block.attn.replace(**{x: wrapped(getattr(block.attn, x)) for x in "qkvo"})
    mlp = block.mlp.replace(**{x: wrapped(getattr(block.mlp, x)) for x in ("gate", "up", "down")})
    llama = LLAMA.replace(blocks=(block.replace(attn=attn, mlp=mlp),))
    step = narrow(heads=[[0, 2]], neurons=[[5, 11, 30]])
    for form in (llama, stack(llama)):
        assert widths(form) == ((4, 2, 56),) and widths(step(form)) == ((2, 2, 3),)
        for one, other in zip(
            jax.tree.leaves(fold_kernels(unstack(step(form)))),
            jax.tree.leaves(step(fold_kernels(llama))),
            strict=True,
        ):
            np.testing.assert_allclose(one, other, atol=1e-5, rtol=0)


def test_uneven_blocks_run_everywhere():
    uneven = chain(UNEVEN, drop_sublayers(attention=[1]))(LLAMA)
    expected = np.asarray(jax.jit(next_token_nll)(uneven, IDS))
    measured = perplexity(uneven, IDS)
    np.testing.assert_allclose(measured.nll, expected.mean(), atol=1e-5, rtol=0)
    np.testing.assert_allclose(
        perplexity(stack(uneven), IDS).nll, expected.mean(), atol=1e-5, rtol=0
    )
    # Candidates that are cut from it.
    scores = score(uneven, "perplexity", IDS)
    cut = perplexity(drop_blocks([2])(uneven), IDS)
    np.testing.assert_allclose(scores.scores[2], cut.ppl, rtol=1e-5)
    # One homogeneous stack, filled with zeros.
    stacked, plan = virtual(uneven)
    h = run_plan(stacked, plan, embed(stacked, IDS), context(uneven.config, IDS.shape[1]))
    np.testing.assert_allclose(
        token_nll(stacked, h[:, :-1], IDS[:, 1:]), expected, atol=1e-5, rtol=0
    )


def test_recipes_hold_it():
    (step,) = UNEVEN.steps
    assert step["args"]["neurons"][2] == list(range(30)) and step["args"]["heads"][1] is None
    again = from_step(json.loads(json.dumps(step)))
    assert again == UNEVEN and hash(again) == hash(UNEVEN)
    same(again(LLAMA), UNEVEN(LLAMA))
    same(narrow(heads=np.full((4, 1), 2))(LLAMA), narrow(heads=4 * [[2]])(LLAMA))


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (narrow(heads=[[0]]), "heads has 1 entries for a model of 4 blocks; give one for each"),
        (narrow(neurons=5 * [[0]]), "neurons has 5 entries for a model of 4"),
        (
            narrow(heads=[None, [0, 4], None, None]),
            "block 1 has 4 key-value heads, 0 to 3; there is no 4",
        ),
        (narrow(neurons=[[-1], None, None, None]), "block 0 has 56 neurons, 0 to 55; there is no"),
        (
            chain(drop_sublayers(mlp=[2]), narrow(neurons=4 * [[0]])),
            "block 2 has no neurons: that sublayer is removed; give null",
        ),
    ],
)
def test_what_does_not_fit_the_model(transform, message):
    with pytest.raises(InputError, match=message):
        transform(LLAMA)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({"heads": [[0], []]}, "block 1 would keep no heads; keep at least one, or use drop_sub"),
        ({"neurons": [[3, 3]]}, "neurons of block 0 name one twice"),
        ({"neurons": [[0.5]]}, "neurons of block 0 are indices, not 0.5"),
        ({"heads": [0, 1]}, "heads is a list with, for each block, a list of the heads that stay"),
        ({"heads": {"0": [1]}}, "heads is a list with, for each block"),
    ],
)
def test_wrong_arguments(args, message):
    with pytest.raises(InputError, match=message):
        narrow(**args)
