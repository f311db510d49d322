"""Training adapters: what changes, what is computed, what a resumed run repeats."""

import dataclasses
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jprune.checkpoints import export_huggingface
from jprune.core.errors import InputError, Interrupted
from jprune.llama import Masked, named_params, stack, unstack
from jprune.llama.kernels import is_kernel
from jprune.retrain import (
    ADAPTERS,
    AdamW,
    Batch,
    adamw,
    batch_indices,
    gradients,
    join,
    next_token_loss,
    schedule,
    split,
    train,
)
from jprune.retrain.step import init_state
from jprune.transforms import add_lora, fold_lora
from tests.retrain.short_run import SETTINGS, WINDOWS, send_at
from tests.tiny import tiny, windows


def adapted(**arguments):
    return add_lora(**{"rank": 3, "dropout": 0.1} | arguments)(tiny(2))


def masked():
    """A tiny model whose up projections have lost half of their weights, with adapters."""
    rng = np.random.default_rng(0)

    def mask(block):
        up = block.mlp.up
        keep = jnp.asarray(rng.random(up.kernel.shape) < 0.5)
        up = up.replace(kernel=Masked(up.kernel, keep))
        return block.replace(mlp=block.mlp.replace(up=up))

    llama = tiny(2)
    return add_lora(rank=3, dropout=0.1)(llama.replace(blocks=tuple(map(mask, llama.blocks))))


def run(folder=None, llama=None, **changes):
    settings = dataclasses.replace(SETTINGS, **changes)
    return train(llama or adapted(), WINDOWS, settings, where=ADAPTERS, checkpoint_dir=folder)


def dots(jaxpr):
    """The shapes that matrix products in a program give, those in its loops included."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            yield equation.outvars[0].aval.shape
        for value in jax.tree.leaves(
            equation.params, is_leaf=lambda x: hasattr(x, "jaxpr") or hasattr(x, "eqns")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from dots(inner)


@pytest.mark.parametrize("make", [adapted, masked])
def test_frozen_weights_have_no_gradients(make):
    params, rest = split(stack(make()), ADAPTERS)
    assert len(params) == 14
    batch = Batch(jnp.asarray(WINDOWS[None, :4]), jnp.ones((1, 4, 12), bool))
    program = jax.make_jaxpr(
        lambda p: gradients(p, rest, batch, jax.random.key(0), next_token_loss)
    )
    shapes = list(dots(program(params).jaxpr))
    assert (32, 3) in shapes and (3, 56) in shapes  # gradients of a and of b
    kernels = {(32, 32), (32, 16), (32, 56), (56, 32), (32, 97), (97, 32)}
    # Under a mask the weight's gradient is on the way to the adapter's, and a b is formed.
    expected = {(32, 56), (56, 32)} if make is masked else set()
    assert {shape for shape in shapes if shape in kernels or shape[::-1] in kernels} == expected


def test_the_optimizer_sees_adapters_alone():
    params, _ = split(stack(adapted()), ADAPTERS)
    state = init_state(params, adamw(AdamW(), 200))
    sizes = {leaf.size for leaf in jax.tree.leaves(state.opt_state)}
    assert sizes <= {1, *(leaf.size for leaf in params.values())}


def test_only_adapters_change_and_they_learn():
    before = adapted(dropout=0.0)
    result = run(llama=before, steps=60, optimizer=AdamW(learning_rate=2e-2, warmup_steps=5))
    losses = [row["loss"] for row in result.history if "loss" in row]
    assert losses[-1] < 0.5 * losses[0]
    for name, leaf in named_params(result.llama).items():
        old = named_params(before)[name]
        changed = name.endswith((".kernel.a", ".kernel.b"))
        assert bool(jnp.any(leaf != old)) == changed, name


def test_pruned_weights_stay_zero():
    before = masked()
    result = run(llama=before, steps=3).llama
    for old, new in zip(before.blocks, fold_lora()(result).blocks, strict=True):
        kernel, mask = new.mlp.up.kernel, np.asarray(old.mlp.up.kernel.mask)
        np.testing.assert_array_equal(kernel.mask, mask)
        assert not np.asarray(kernel.kernel)[~mask].any()
        assert (np.asarray(kernel.kernel) != old.mlp.up.kernel.kernel.kernel)[mask].any()
    assert any(map(is_kernel, jax.tree.leaves(result, is_leaf=is_kernel)))


def test_an_interrupted_run_drops_the_same_inputs(tmp_path, monkeypatch):
    whole = run()
    with monkeypatch.context() as patch:
        send_at(signal.SIGTERM, 4, patch)
        with pytest.raises(Interrupted, match="after step 5"):
            run(tmp_path)
    resumed = run(tmp_path)
    assert resumed.history == whole.history
    jax.tree.map(np.testing.assert_array_equal, resumed.llama, whole.llama)
    for changes in ({"alpha": 8}, {"dropout": 0.2}):
        with pytest.raises(InputError, match=r"another run \(different: adapters\)"):
            run(tmp_path, llama=adapted(**changes))
    with pytest.raises(InputError, match=r"another run \(different: parameters\)"):
        run(tmp_path, llama=adapted(rank=2, alpha=16 * 2 / 3))


# Against PEFT and PyTorch.

PARITY = dataclasses.replace(
    SETTINGS,
    steps=20,
    batch_size=4,
    micro_batch_size=2,
    optimizer=AdamW(learning_rate=1e-2, warmup_steps=4, weight_decay=0.05, clip_norm=0.5),
    checkpoint_every=0,
    validate_every=0,
)


def peft_run(llama, base, ids, settings):
    """Losses, gradients of the first step, and the factors after the last, in PyTorch."""
    import peft
    import torch
    import transformers

    config = peft.LoraConfig(
        r=3,
        lora_alpha=6,
        lora_dropout=0.0,
        target_modules=[
            "q_proj",
            "k_proj",
            "v_proj",
            "o_proj",
            "gate_proj",
            "up_proj",
            "down_proj",
        ],
        task_type="CAUSAL_LM",
    )
    plain = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = peft.get_peft_model(plain, config).train()
    torch_params = {n: p for n, p in model.named_parameters() if p.requires_grad}
    ours = factors(llama)
    assert len(torch_params) == len(ours)
    with torch.no_grad():
        for name, parameter in torch_params.items():
            parameter.copy_(torch.tensor(ours[name]))
    adam = settings.optimizer
    optimizer = torch.optim.AdamW(
        torch_params.values(),
        betas=(adam.b1, adam.b2),
        eps=adam.eps,
        weight_decay=adam.weight_decay,
    )
    rate, losses, first = schedule(adam, settings.steps), [], {}
    for step in range(settings.steps):
        chosen = batch_indices(len(ids), settings.batch_size, settings.seed, step)
        batch = torch.tensor(ids[chosen], dtype=torch.long)
        for group in optimizer.param_groups:
            group["lr"] = float(rate(step))
        optimizer.zero_grad()
        loss = model(batch, labels=batch).loss
        loss.backward()
        losses.append(loss.item())
        if step == 0:
            first = {n: p.grad.numpy().copy() for n, p in torch_params.items()}
        torch.nn.utils.clip_grad_norm_(torch_params.values(), adam.clip_norm)
        optimizer.step()
    return losses, first, {n: p.detach().numpy() for n, p in torch_params.items()}


def factors(llama):
    """The factors of the adapters under PEFT's names and in its orientation."""
    found = {}
    for name, leaf in named_params(llama).items():
        stem, _, side = name.rpartition(".kernel.")
        if side in ("a", "b"):
            full = f"base_model.model.model.{stem}.lora_{side.upper()}.default.weight"
            found[full] = np.asarray(leaf).T
    return found


@pytest.mark.parity
def test_twenty_steps_against_peft(tmp_path):
    pytest.importorskip("torch"), pytest.importorskip("peft"), pytest.importorskip("transformers")
    ids = windows(9, 16, seed=1)
    export_huggingface(tmp_path / "base", tiny(2))
    llama = add_lora(rank=3, alpha=6, dropout=0.0)(tiny(2))
    losses, first, last = peft_run(llama, tmp_path / "base", ids, PARITY)

    chosen = batch_of_first_step(ids)
    params, rest = split(llama, ADAPTERS)
    _, _, grads = gradients(params, rest, chosen, None, next_token_loss)
    for name, grad in factors(join(grads, rest)).items():
        scale = np.abs(first[name]).max()
        np.testing.assert_allclose(grad, first[name], atol=1e-4 * max(scale, 1e-6), err_msg=name)
    trained = train(llama, ids, PARITY, where=ADAPTERS)
    ours = [row["loss"] for row in trained.history]
    np.testing.assert_allclose(ours, losses, rtol=1e-4)
    assert losses[-1] < 0.9 * losses[0]  # 20 steps matter
    for name, leaf in factors(unstack(trained.llama)).items():
        np.testing.assert_allclose(leaf, last[name], atol=2e-3, err_msg=name)


def batch_of_first_step(ids):
    chosen = ids[batch_indices(len(ids), PARITY.batch_size, PARITY.seed, 0)].reshape(2, 2, -1)
    return Batch(jnp.asarray(chosen), jnp.ones(chosen.shape, bool))
