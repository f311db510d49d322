"""What retraining will need, before any of it is there."""

import jax

from jprune.core.trees import matches
from jprune.llama.model import Llama, count_params
from jprune.llama.names import named_params
from jprune.llama.stack import layers_of
from jprune.pipeline.retrain_config import RetrainConfig
from jprune.report.tables import count, size
from jprune.retrain import ADAPTERS
from jprune.retrain.kinds import LAST, LORA

FLOAT32 = 4  # bytes


def lines(config: RetrainConfig, llama: Llama, seed: int) -> list[str]:
    """What trains, memory and disk, one line each; none where nothing is retrained.

    Args:
      config: the group `retrain`.
      llama: the shapes of the model before it is pruned: what follows holds for it, and is the most
        of what is left.
      seed: of the run.
    """
    if not config.is_on:
        return []
    trained = trained_size(config, llama, seed)
    weights = count_params(llama) * config.train.dtype.itemsize
    # Masters, two moments and gradients of what trains; the others, and a teacher, as they run.
    memory = weights * (2 if config.distils else 1) + 4 * FLOAT32 * trained
    disk = (config.train.keep + 1) * 3 * FLOAT32 * trained
    return [
        f"retraining: at most {count(trained)} parameters train, about {size(memory)} for weights, "
        "optimizer and gradients, and the activations of a micro-batch; "
        f"{size(disk)} of disk for its checkpoints",
    ]


def trained_size(config: RetrainConfig, llama: Llama, seed: int) -> int:
    """How many parameters of a model would train."""
    if config.trained == LORA:
        adapted = named_params(jax.eval_shape(config.lora.transform(seed), llama))
        return count_params([x for name, x in adapted.items() if matches(ADAPTERS, name)])
    if config.trained == LAST:
        last = layers_of(llama)[-config.last_k :]
        return count_params((last, llama.final_norm, llama.lm_head))
    return count_params(llama)
