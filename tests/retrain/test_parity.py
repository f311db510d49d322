"""Training of all parameters against transformers and PyTorch's AdamW, on a trained model."""

import numpy as np
import pytest

from jprune.checkpoints import load
from jprune.retrain import AdamW, TrainSettings, batch_indices, schedule, train

SETTINGS = TrainSettings(
    steps=20,
    batch_size=2,
    seed=3,
    optimizer=AdamW(learning_rate=3e-4, warmup_steps=4, weight_decay=0.1, clip_norm=1.0),
    compute_dtype="float32",
    checkpoint_every=0,
)


def torch_losses(folder, ids):
    """The losses of a loop as published: AdamW, clipping, a schedule, no decay of norms."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    adam = SETTINGS.optimizer
    parameters = dict(model.named_parameters())
    norms = [p for n, p in parameters.items() if "norm" in n]
    others = [p for n, p in parameters.items() if "norm" not in n]
    groups = [{"params": others}, {"params": norms, "weight_decay": 0}]
    optimizer = torch.optim.AdamW(
        groups,
        weight_decay=adam.weight_decay,
        betas=(adam.b1, adam.b2),
        eps=adam.eps,
    )
    rate, losses = schedule(adam, SETTINGS.steps), []
    for step in range(SETTINGS.steps):
        chosen = batch_indices(len(ids), SETTINGS.batch_size, SETTINGS.seed, step)
        batch = torch.tensor(ids[chosen], dtype=torch.long)
        for group in optimizer.param_groups:
            group["lr"] = float(rate(step))
        optimizer.zero_grad()
        loss = model(batch, labels=batch).loss
        loss.backward()
        losses.append(loss.item())
        torch.nn.utils.clip_grad_norm_(model.parameters(), adam.clip_norm)
        optimizer.step()
    return losses


@pytest.mark.parity
def test_twenty_steps_of_all_parameters(shared):
    pytest.importorskip("torch"), pytest.importorskip("transformers")
    with np.load(shared / "goldens" / "llama-16m.npz") as file:
        ids = file["calib_128_10"].astype(np.int32)[:6, :64]  # of which the 20 steps see each often
    folder = shared / "models" / "llama-16m"
    expected = torch_losses(folder, ids)
    found = [row["loss"] for row in train(load(folder, "float32"), ids, SETTINGS).history]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert expected[-1] < 0.8 * expected[0]  # 20 steps matter
