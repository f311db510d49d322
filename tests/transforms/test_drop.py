"""Dropping blocks and sublayers: the algebra, and the models that result."""

import jax
import numpy as np
import pytest

from jprune.core.errors import InputError
from jprune.llama import count_params, forward, stack, unstack
from jprune.transforms import chain, drop_blocks, drop_sublayers, drop_units, removed_units
from tests.llama.test_stack import same
from tests.tiny import tiny, windows, without

LLAMA = tiny(5)
IDS = windows(2, 8)
logits = jax.jit(forward)


def layers(llama):
    return [origin.index for origin in llama.origins]


def test_dropping_nothing_is_the_identity():
    for nothing in (drop_blocks([]), drop_sublayers(), chain(), drop_units([])):
        same(nothing(LLAMA), LLAMA)
        same(nothing(stack(LLAMA)), stack(LLAMA))


def test_blocks_that_stay_are_the_same_arrays():
    pruned = drop_blocks([1, 3])(LLAMA)
    assert layers(pruned) == [0, 2, 4]
    assert pruned.blocks[1].mlp.up.kernel is LLAMA.blocks[2].mlp.up.kernel
    assert LLAMA.num_layers == 5


def test_indices_refer_to_the_model_at_that_step():
    assert layers(chain(drop_blocks([0]), drop_blocks([0, 2]))(LLAMA)) == [2, 4]
    assert layers(drop_blocks((4, 0))(LLAMA)) == [1, 2, 3]


@pytest.mark.parametrize("seed", range(5))
def test_dropping_in_steps_is_dropping_at_once(seed):
    rng = np.random.default_rng(seed)
    gone = sorted(int(i) for i in rng.choice(5, size=3, replace=False))
    steps = [drop_blocks([index - at]) for at, index in enumerate(gone)]
    same(chain(*steps)(LLAMA), drop_blocks(gone)(LLAMA))
    same(chain(chain(*steps[:1]), chain(*steps[1:]))(LLAMA), drop_blocks(gone)(LLAMA))


def test_sublayers_and_blocks_are_gone_from_the_computation():
    gates = np.ones((5, 2), bool)
    gates[1, 0], gates[3, 1], gates[2] = False, False, False
    pruned = chain(drop_sublayers(attention=[1], mlp=[3]), drop_blocks([2]))(LLAMA)
    assert pruned.blocks[1].attn is None and pruned.blocks[1].attn_norm is None
    assert pruned.blocks[1].mlp is not None
    np.testing.assert_allclose(
        logits(pruned, IDS), logits(without(LLAMA, gates), IDS), atol=1e-6, rtol=0
    )


def test_the_stacked_form_stays_stacked():
    for change in (drop_blocks([0, 3]), drop_sublayers(mlp=[2])):
        result = change(stack(LLAMA))
        assert all(hasattr(part, "origins") for part in result.blocks)
        same(unstack(result), change(LLAMA))


def test_sizes_are_known_before_any_array_exists():
    transform = chain(drop_blocks([1]), drop_sublayers(attention=[0]))
    for form in (LLAMA, stack(LLAMA)):
        shapes = jax.eval_shape(transform, form)
        assert count_params(shapes) == count_params(transform(form))
        same(jax.jit(transform)(form), transform(form))


def test_units_become_steps():
    transform = drop_units([(4, "block"), (1, "mlp"), (2, "mlp"), (2, "attention"), (0, "block")])
    assert transform.steps == (
        {"op": "drop_sublayers", "args": {"attention": [], "mlp": [1]}},
        {"op": "drop_blocks", "args": {"blocks": [0, 2, 4]}},
    )
    assert layers(transform(LLAMA)) == [1, 3]
    assert drop_units([(3, "block")]).steps == drop_blocks([3]).steps


def test_what_is_gone_is_found_again():
    removed = ((0, "block"), (1, "mlp"), (3, "attention"))
    assert removed_units(LLAMA, drop_units(removed)(LLAMA)) == removed
    assert removed_units(LLAMA, LLAMA) == ()


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        (drop_blocks([5]), "there is no block 5: the model has 5 blocks, 0 to 4"),
        (drop_blocks([-1]), "there is no block -1"),
        (drop_blocks(range(5)), "removing all 5 blocks leaves no model"),
        (drop_sublayers(attention=[7]), "there is no attention 7"),
        (drop_sublayers(range(5), range(5)), "removing every sublayer leaves no model"),
        (chain(drop_sublayers([0], [0]), drop_blocks([1, 2, 3, 4])), "removing every sublayer"),
        (chain(drop_blocks([4]), drop_blocks([4])), "there is no block 4: the model has 4"),
    ],
)
def test_wrong_indices(transform, message):
    with pytest.raises(InputError, match=message):
        transform(LLAMA)


def test_an_index_twice():
    with pytest.raises(InputError, match="name one twice"):
        drop_blocks([1, 1])
