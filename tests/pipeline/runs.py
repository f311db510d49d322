"""Jobs that tests run: three stages in a line, and depth pruning."""

import jax
import jax.numpy as jnp
import numpy as np

from jprune.checkpoints import load_tokenizer
from jprune.core.files import write_json
from jprune.data import evaluation_windows
from jprune.llama import forward
from jprune.pipeline.stages import Stage

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


def job(workdir, log, first=1, second=2, third=3):
    """Three stages in a line, each adding its key to the sum; `log` says which ran."""

    def stage(name, key, need=None):
        def run(values):
            log.append(name)
            total = key + (values[need]["total"] if need else 0)
            write_json(workdir / f"{name}.json", total)
            return {"total": total}

        return Stage(name, {"key": key}, run, (need,) if need else (), (f"{name}.json",))

    return [stage("a", first), stage("b", second, "a"), stage("c", third, "b")]
