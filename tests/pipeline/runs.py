"""What tests of the depth pruning job share."""

import jax
import jax.numpy as jnp
import numpy as np

from jprune.checkpoints import load_tokenizer
from jprune.data import evaluation_windows
from jprune.llama import forward

STAGES = [
    "model", "calibration", "score", "baselines", "recipe", "evaluate-before", "evaluate-after",
    "curve", "export", "checkpoint", "report",
]  # fmt: skip


def ran(record):
    return [stage["name"] for stage in record["stages"] if stage["status"] == "done"]


def ppl(llama, ids):
    """Perplexity, straight from the logits."""
    logp = np.asarray(jax.nn.log_softmax(forward(llama, jnp.asarray(ids))[:, :-1]), np.float64)
    return np.exp(-np.take_along_axis(logp, ids[:, 1:, None], -1).mean())


def eval_ids(model, text, windows):
    return evaluation_windows(str(text), load_tokenizer(model), 64, windows)  # the model's most
