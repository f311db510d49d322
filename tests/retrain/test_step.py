import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jprune.llama import forward, stack
from jprune.llama.kernels import Lora
from jprune.retrain import (
    AdamW,
    Batch,
    adamw,
    gradients,
    join,
    next_token_loss,
    schedule,
    split,
    train_step,
)
from jprune.retrain.step import init_state
from tests.tiny import tiny, windows

IDS = windows(8, 12, seed=3)
MASK = np.random.default_rng(4).random(IDS.shape) < 0.7


def micro_batches(count):
    return Batch(jnp.asarray(IDS.reshape(count, -1, 12)), jnp.asarray(MASK.reshape(count, -1, 12)))


def plain_loss(llama):
    """Mean NLL of the unmasked targets, straight from the logits."""
    logp = jax.nn.log_softmax(forward(llama, jnp.asarray(IDS))[:, :-1])
    nll = -jnp.take_along_axis(logp, jnp.asarray(IDS)[:, 1:, None], axis=-1)[..., 0]
    return jnp.sum(nll * MASK[:, 1:]) / np.sum(MASK[:, 1:])


@functools.cache
def setting():
    llama = tiny(2)
    return llama, *split(stack(llama), "**")


def test_gradients_are_those_of_a_plain_loss():
    llama, params, rest = setting()
    total, count, grads = gradients(params, rest, micro_batches(1), None, next_token_loss)
    value, expected = jax.value_and_grad(plain_loss)(llama)
    assert count == MASK[:, 1:].sum()
    np.testing.assert_allclose(total / count, value, rtol=1e-6)
    expected, _ = split(stack(expected), "**")
    for name, grad in grads.items():
        np.testing.assert_allclose(grad, expected[name], atol=1e-6, rtol=1e-4, err_msg=name)


@pytest.mark.parametrize("count", [2, 8])
def test_micro_batches_add_up_to_the_whole_batch(count):
    _, params, rest = setting()
    whole = gradients(params, rest, micro_batches(1), None, next_token_loss)
    parts = gradients(params, rest, micro_batches(count), None, next_token_loss)
    for ours, theirs in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6, rtol=1e-5)


def test_remat_changes_nothing():
    _, params, rest = setting()
    kept = gradients(params, rest, micro_batches(1), None, next_token_loss)
    again = gradients(params, rest, micro_batches(1), None, next_token_loss, remat=True)
    for ours, theirs in zip(jax.tree.leaves(again), jax.tree.leaves(kept), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6, rtol=1e-5)


def test_bfloat16_passes_give_float32_gradients_near_the_exact_ones():
    _, params, rest = setting()
    exact = gradients(params, rest, micro_batches(2), None, next_token_loss)
    total, _, grads = gradients(
        params, rest, micro_batches(2), None, next_token_loss, dtype=jnp.bfloat16
    )
    assert total != exact[0]
    np.testing.assert_allclose(total, exact[0], rtol=2e-2)
    for name, grad in grads.items():
        assert grad.dtype == jnp.float32
        cosine = jnp.vdot(grad, exact[2][name])
        cosine /= jnp.linalg.norm(grad) * jnp.linalg.norm(exact[2][name])
        assert cosine > 0.98, name


def test_three_steps_follow_adamw_by_hand():
    settings = AdamW(
        learning_rate=0.01, warmup_steps=2, b1=0.8, b2=0.9, weight_decay=0.5, clip_norm=0.3
    )
    _, params, rest = setting()
    optimizer = adamw(settings, 10)
    state = init_state(params, optimizer)
    expected = {name: np.asarray(value, np.float64) for name, value in params.items()}
    m = {name: np.zeros_like(value) for name, value in expected.items()}
    v = {name: np.zeros_like(value) for name, value in expected.items()}
    objective = jax.tree_util.Partial(next_token_loss)
    for step, rate in enumerate([0.0, 0.005, 0.01]):
        current = {name: jnp.asarray(value, jnp.float32) for name, value in expected.items()}
        _, _, grads = gradients(current, rest, micro_batches(2), None, next_token_loss)
        grads = {name: np.asarray(grad, np.float64) for name, grad in grads.items()}
        norm = np.sqrt(sum(np.sum(grad**2) for grad in grads.values()))
        assert norm > settings.clip_norm
        for name, grad in grads.items():
            grad = grad * settings.clip_norm / norm
            m[name] = 0.8 * m[name] + 0.2 * grad
            v[name] = 0.9 * v[name] + 0.1 * grad**2
            update = m[name] / (1 - 0.8 ** (step + 1))
            update = update / (np.sqrt(v[name] / (1 - 0.9 ** (step + 1))) + 1e-8)
            if not name.endswith("norm.weight"):
                update = update + 0.5 * expected[name]
            expected[name] = expected[name] - rate * update
        state, metrics = train_step(
            state, rest, micro_batches(2), None, objective, optimizer=optimizer
        )
        np.testing.assert_allclose(metrics.grad_norm, norm, rtol=1e-4)
        assert metrics.tokens == MASK[:, 1:].sum()
    assert state.step == 3
    for name, value in state.params.items():
        np.testing.assert_allclose(value, expected[name], atol=2e-5, err_msg=name)


def test_schedule_warms_up_holds_and_decays():
    rate = schedule(AdamW(1.0, warmup_steps=4, decay_steps=10, final_fraction=0.1), 20)
    np.testing.assert_allclose([rate(step) for step in (0, 1, 4, 7, 10)], [0, 0.25, 1, 1, 1])
    np.testing.assert_allclose([rate(15), rate(20)], [0.55, 0.1], rtol=1e-6)
    cosine = schedule(AdamW(2.0, warmup_steps=0), 8)
    expected = [1 + np.cos(np.pi * step / 8) for step in range(9)]
    np.testing.assert_allclose([cosine(step) for step in range(9)], expected, atol=1e-6)


def test_dropout_of_adapters_depends_on_step_and_micro_batch():
    llama = tiny(1)
    attn = llama.blocks[0].attn
    a, b = jax.random.normal(jax.random.key(0), (32, 2)), jnp.ones((2, 32))
    lora = Lora(attn.q.kernel, a, b, scale=1.0, dropout=0.5)
    block = llama.blocks[0].replace(attn=attn.replace(q=attn.q.replace(kernel=lora)))
    params, rest = split(stack(llama.replace(blocks=(block,))), ["**.kernel.a", "**.kernel.b"])
    assert len(params) == 2
    optimizer = adamw(AdamW(0.0, warmup_steps=0), 10)
    objective = jax.tree_util.Partial(next_token_loss)
    same = Batch(jnp.tile(jnp.asarray(IDS[:1]), (2, 1, 1)), jnp.ones((2, 1, 12), bool))

    def losses(key):
        state = init_state(params, optimizer)
        for _ in range(2):
            state, metrics = train_step(state, rest, same, key, objective, optimizer=optimizer)
            yield float(metrics.loss)

    without = list(losses(None))
    assert without[0] == without[1]
    dropped = list(losses(jax.random.key(1)))
    assert dropped[0] != dropped[1] and without[0] not in dropped
    assert dropped == list(losses(jax.random.key(1)))
    model = join(params, rest)
    first = [
        next_token_loss(model, jax.tree.map(lambda x: x[0], same), key=k)[0]
        for k in jax.random.split(jax.random.fold_in(jax.random.key(1), 0), 2)
    ]
    assert first[0] != first[1]
    np.testing.assert_allclose(sum(first) / 22, dropped[0], rtol=1e-5)
