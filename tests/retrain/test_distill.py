"""Distillation: its loss by hand, which layers it compares, what trains, what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jprune.core.errors import InputError
from jprune.llama import Origin, forward
from jprune.llama import loss as nll_of
from jprune.llama.forward import apply_block, block_states, context, embed, hidden_states
from jprune.llama.stack import stack
from jprune.retrain import AdamW, TrainSettings, distillation, train
from jprune.retrain.distill import layer_pairs
from jprune.retrain.step import Batch
from jprune.transforms import drop_blocks
from tests.tiny import tiny, windows

TEACHER = tiny(4)
STUDENT = drop_blocks([1])(TEACHER)
IDS = windows(3, 10)
MASK = np.random.default_rng(0).random(IDS.shape) < 0.7


def log_softmax(x):
    x = np.asarray(x, np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def states(llama):
    """The residual stream after every block, one by one."""
    ctx, h, found = context(llama.config, IDS.shape[1]), embed(llama, jnp.asarray(IDS)), []
    for block in llama.blocks:
        h = apply_block(block, h, ctx)
        found.append(np.asarray(h, np.float64))
    return found


def by_hand(temperature, alpha, hidden_weight):
    """The loss in NumPy, from logits and hidden states."""
    ours, theirs = (np.asarray(forward(x, jnp.asarray(IDS)))[:, :-1] for x in (STUDENT, TEACHER))
    log_q, log_p = log_softmax(ours / temperature), log_softmax(theirs / temperature)
    divergence = (np.exp(log_p) * (log_p - log_q)).sum(-1)
    nll = -np.take_along_axis(log_softmax(ours), IDS[:, 1:, None], -1)[..., 0]
    loss = alpha * temperature**2 * divergence + (1 - alpha) * nll
    mine, its = states(STUDENT), states(TEACHER)
    pairs = ((0, 0), (1, 2), (2, 3))  # block 1 of the teacher is gone
    apart = [((mine[a] - its[b]) ** 2).mean(-1) for a, b in pairs]
    loss = loss + hidden_weight * np.mean(apart, axis=0)[:, :-1]
    return (loss * MASK[:, 1:]).sum(), MASK[:, 1:].sum()


@pytest.mark.parametrize(
    ("temperature", "alpha", "hidden_weight"), [(1.0, 1.0, 0.0), (2.0, 0.3, 0.0), (3.0, 0.5, 0.2)]
)
@pytest.mark.parametrize("form", ["tuple", "stack"])
def test_the_loss(temperature, alpha, hidden_weight, form):
    objective = distillation(
        TEACHER, STUDENT.origins, temperature=temperature, alpha=alpha, hidden_weight=hidden_weight
    )
    student = stack(STUDENT) if form == "stack" else STUDENT
    found = objective(student, Batch(IDS, MASK))
    np.testing.assert_allclose(found, by_hand(temperature, alpha, hidden_weight), rtol=2e-5)


def test_logits_in_pieces_give_the_same(monkeypatch):
    objective = distillation(TEACHER, STUDENT.origins, alpha=0.3)

    def value(student):
        return objective(student, Batch(IDS, MASK))[0]

    loss, gradient = jax.value_and_grad(value)(STUDENT)
    monkeypatch.setattr(nll_of, "MAX_LOGITS", 3 * 2 * 97 * 2)  # two positions at a time
    pieces, same = jax.value_and_grad(value)(STUDENT)
    np.testing.assert_allclose(pieces, loss, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(same), jax.tree.leaves(gradient), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)


def test_the_whole_model_has_nothing_to_learn_from_itself():
    objective = distillation(TEACHER, TEACHER.origins, alpha=1.0, hidden_weight=1.0)
    gradient = jax.grad(lambda llama: objective(llama, Batch(IDS, MASK))[0])(stack(TEACHER))
    assert max(float(jnp.abs(g).max()) for g in jax.tree.leaves(gradient)) < 1e-3


def test_block_states_are_those_of_single_blocks():
    found = block_states(stack(STUDENT), jnp.asarray(IDS))
    np.testing.assert_allclose(found, states(STUDENT), atol=1e-4)
    np.testing.assert_array_equal(found[-1], hidden_states(stack(STUDENT), jnp.asarray(IDS)))


def test_layers_are_paired_by_origin():
    teacher = [Origin("m", 0), Origin("m", 1), Origin("m", 2)]
    assert layer_pairs([Origin("m", 0), Origin("m", 2)], teacher) == ((0, 0), (1, 2))
    assert layer_pairs([Origin("n", 0), None, Origin("m", 1)], teacher) == ((2, 1),)


def test_training_comes_nearer_to_the_teacher():
    settings = TrainSettings(
        6, 3, optimizer=AdamW(learning_rate=3e-3, warmup_steps=0, weight_decay=0.0)
    )
    objective = distillation(TEACHER, STUDENT.origins, alpha=1.0, hidden_weight=0.1)
    losses = [row["loss"] for row in train(STUDENT, IDS, settings, objective=objective).history]
    assert losses[-1] < 0.7 * losses[0]
    jax.tree.map(np.testing.assert_array_equal, TEACHER, tiny(4))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature takes a number above 0, not 0"),
        ({"alpha": 1.5}, "alpha takes a number from 0 to 1, not 1.5"),
        ({"hidden_weight": -1.0}, "hidden_weight takes a number from 0 on, not -1"),
        ({"hidden_weight": 1.0}, "no block of the student is one of the teacher's"),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        distillation(TEACHER, [Origin("other", 0)], **options)
