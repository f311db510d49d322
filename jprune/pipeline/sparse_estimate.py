"""What a run that sparsifies or narrows a model will need and give, before any of it is there."""

from collections.abc import Sequence

import jax

from jprune.checkpoints.placement import bytes_per_device, placement
from jprune.core.mesh import batch_parts, current_mesh
from jprune.evaluate.batches import window_batch_size
from jprune.llama.blockwise import block_shapes, ends
from jprune.llama.linears import INPUT_OF, linear_kernels
from jprune.llama.model import Llama, count_bytes, count_params
from jprune.pipeline.calibration import calibration_shape
from jprune.pipeline.estimate import FLOAT32, LOGIT_TOKENS
from jprune.pipeline.source import SourceModel
from jprune.pipeline.sparse_config import WIDTH, SparseConfig
from jprune.pipeline.sparse_figures import block_weights, linear_weights
from jprune.pipeline.stages import StageState
from jprune.report.tables import change, count, size
from jprune.scores.inputs import offloaded
from jprune.scores.sparsify import NEW_KERNELS


def lines(config: SparseConfig, source: SourceModel, states: Sequence[StageState]) -> list[str]:
    """Resulting parameters, memory and disk, one line each."""
    llama = source.abstract()
    before = count_params(llama)
    recipe = next((s.value for s in states if s.name == "recipe" and s.value), None)
    linears = linear_weights(llama)
    about, after = "", before
    if recipe:
        after = recipe["after"]["parameters"]
    elif config.criterion == WIDTH:
        about, after = "about ", before - round(config.target * linears)
    zeros = 0 if config.criterion == WIDTH else round(config.target * linears)
    mesh, where = current_mesh(), jax.devices()[0].device_kind
    where = f"each of {mesh.size} devices ({where})" if mesh else where
    itemsize = source.own_dtype.itemsize
    disk = 2 * after * itemsize
    if config.criterion != WIDTH:  # masks, and the weights that are new
        new = linears if config.criterion in NEW_KERNELS else 0
        disk += linears // 8 + new * source.dtype.itemsize
    sparse = f", {count(zeros)} of them zero" if zeros else ""
    return [
        f"parameters: {count(before)} -> {about}{count(after)} ({change(after, before)}){sparse}",
        f"memory: about {size(memory_bytes(llama, config, source))} on {where} in {source.dtype}",
        f"disk: about {size(disk)} for the model, its checkpoint and the masks",
    ]


def memory_bytes(llama: Llama, config: SparseConfig, source: SourceModel) -> int:
    """The most that is held at once by a device, in bytes.

    That is the model and the pruned blocks beside it, the residual streams of all calibration
    windows (or of two batches), what is summed of the inputs of one block, and the activations of a
    batch. A model on the host adds two blocks in place of itself, or its embeddings.

    Args:
      llama: the model's shapes.
      config: what is asked for.
      source: the model; its dtypes count.
    """
    away = offloaded(config.offload)
    share = bytes_per_device(llama, placement(None, llama.config)) / count_bytes(llama)
    itemsize = share * source.dtype.itemsize
    shapes = block_shapes(llama)
    block = max(shapes, key=block_weights)
    if "weights" in away:
        held = itemsize * max(count_params(ends(llama)), 3 * count_params(block))
    else:
        held = itemsize * 2 * count_params(llama)
    windows, length = calibration_shape(config, llama.config)
    vocabulary, hidden = llama.embed.shape
    state = windows * length * hidden * source.dtype.itemsize // batch_parts()
    batch = window_batch_size((windows, length)) * length // batch_parts()
    widest = max(kernel.shape[-1] for kernel in linear_kernels(block).values())
    activations = batch * (6 * hidden + 3 * widest) * max(source.dtype.itemsize, FLOAT32)
    logits = min(batch, LOGIT_TOKENS) * vocabulary * FLOAT32
    if not config.reads_data:
        return round(held + logits + activations)
    streams = 2 * batch * hidden * source.dtype.itemsize if "hidden" in away else state
    return round(held + streams + sums_bytes(block, config) + max(activations, logits))


def sums_bytes(block, config: SparseConfig) -> int:
    """Bytes of what is summed over the inputs of a block: Hessians and, of one, two more."""
    if config.criterion not in NEW_KERNELS:
        return 0
    widths = {INPUT_OF[name]: kernel.shape[0] for name, kernel in linear_kernels(block).items()}
    squares = [width**2 for width in widths.values()]
    return FLOAT32 * (2 * sum(squares) + 3 * max(squares))
