"""What a finetuning run will need, before any of it is there."""

import jax

from jprune.checkpoints import as_dtype
from jprune.core.mesh import current_mesh
from jprune.llama.model import count_params
from jprune.pipeline.finetune_config import FinetuneConfig
from jprune.pipeline.source import SourceModel
from jprune.report.tables import count, size

FLOAT32 = 4  # bytes


def lines(config: FinetuneConfig, source: SourceModel, trained: int) -> list[str]:
    """Parameters, memory and disk, one line each.

    Args:
      config: what is asked for.
      source: the base.
      trained: how many parameters the adapters have.
    """
    parameters = count_params(source.abstract())
    # The base, in another dtype a copy of it for the passes; of the adapters their masters, two
    # moments and gradients.
    held = {source.dtype, config.train.dtype}
    memory = parameters * sum(dtype.itemsize for dtype in held) + 4 * FLOAT32 * trained
    disk = (config.train.keep + 1) * 3 * FLOAT32 * trained
    disk += trained * as_dtype(config.adapter_dtype).itemsize
    disk += parameters * source.own_dtype.itemsize if config.export_folded else 0
    mesh, where = current_mesh(), jax.devices()[0].device_kind
    where = f"{mesh.size} devices ({where}) together" if mesh else where
    return [
        f"parameters: {count(parameters)}, and {count(trained)} in adapters, which train",
        f"memory: about {size(memory)} on {where} for weights, adapters, optimizer and gradients, "
        "and the activations of a micro-batch",
        f"disk: about {size(disk)} for checkpoints and what is saved",
    ]
