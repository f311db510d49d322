"""What a depth pruning run will need and give, before any of it is there."""

from collections.abc import Iterable, Sequence

import jax

from jprune.checkpoints.placement import bytes_per_device, placement
from jprune.core.mesh import batch_parts, current_mesh
from jprune.evaluate.batches import window_batch_size
from jprune.evaluate.candidates import MAX_STATE_BYTES
from jprune.llama.model import Llama, count_bytes, count_params
from jprune.pipeline.calibration import calibration_shape
from jprune.pipeline.depth_config import DepthConfig
from jprune.pipeline.source import SourceModel
from jprune.pipeline.stages import StageState
from jprune.report.tables import change, count, size
from jprune.scores import Unit, parse_layers, units
from jprune.scores.taylor import input_bytes
from jprune.transforms import chain, drop_units, from_step

FLOAT32 = 4  # bytes
LOGIT_TOKENS = 2048  # at most so many tokens have their logits at once


def lines(config: DepthConfig, source: SourceModel, states: Sequence[StageState]) -> list[str]:
    """Resulting parameters, memory and disk, one line each."""
    llama = source.abstract()
    before = count_params(llama)
    recipe = next((s.value for s in states if s.name == "recipe" and s.value), None)
    if recipe:
        transform = chain(*(from_step(step) for step in recipe["steps"]))
        after = [count_params(jax.eval_shape(transform, llama))]
    else:
        after = possible_sizes(llama, config)
    memory = memory_bytes(llama, max(after), config, source)
    mesh, where = current_mesh(), jax.devices()[0].device_kind
    where = f"each of {mesh.size} devices ({where})" if mesh else where
    # The export and the checkpoint, in the dtype of the original.
    disk = 2 * max(after) * source.own_dtype.itemsize
    return [
        f"parameters: {count(before)} -> {' to '.join(count(n) for n in after)} "
        f"({' to '.join(change(n, before) for n in after)})",
        f"memory: about {size(memory)} on {where} in {source.dtype}",
        f"disk: about {size(disk)} for the model and its checkpoint",
    ]


def possible_sizes(llama: Llama, config: DepthConfig) -> list[int]:
    """Parameters after the removal: one number, or the least and the most.

    Attention and MLP sublayers differ in size, so that it may depend on the scores.
    """
    protected = parse_layers(config.protect, llama.num_layers)
    free = [unit for unit in units(llama, config.granularity) if unit.layer not in protected]

    def remaining(removed: Iterable[Unit]) -> int:
        return count_params(jax.eval_shape(drop_units(removed), llama))

    sizes = set()
    for attention_first in (True, False):
        order = sorted(free, key=lambda unit: (unit.part != "attention") == attention_first)
        sizes.add(remaining(order[: config.remove]))
    return sorted(sizes)


def memory_bytes(llama: Llama, remaining: int, config: DepthConfig, source: SourceModel) -> int:
    """The most that is held at once by a device, in bytes.

    That is the most of three: the model with the states of all candidates and the logits of a
    batch, while it is scored (for Taylor scores with the inputs of all blocks and the gradient of
    one); the model with the activations and logits of a batch, while it is evaluated (the pruned
    one shares its arrays); and the exact model with the pruned one in the dtype of the files, while
    that is saved.

    Args:
      llama: the model's shapes.
      remaining: parameters of the pruned model.
      config: what is asked for.
      source: the model; its dtypes count.
    """
    place = placement(None, llama.config)
    share = bytes_per_device(llama, place) / count_bytes(llama)  # of the parameters
    itemsize, own = share * source.dtype.itemsize, share * source.own_dtype.itemsize
    parameters = count_params(llama)
    vocabulary, hidden = llama.embed.shape
    windows, length = shape = calibration_shape(config, llama.config)
    tokens = length * window_batch_size(shape) // batch_parts()
    state = tokens * hidden * source.dtype.itemsize
    candidates = len(units(llama, config.granularity)) + 1
    logits = min(tokens, LOGIT_TOKENS) * vocabulary * FLOAT32
    states = min(candidates * state, MAX_STATE_BYTES)
    if "taylor" in config.criteria:
        gradient = share * FLOAT32 * count_params(llama.blocks[0])
        inputs = (
            input_bytes(llama, windows * length)
            * source.dtype.itemsize
            // source.own_dtype.itemsize
        )
        states = max(states, inputs + 2 * gradient)
    scoring = parameters * itemsize + states + logits
    # In a block: the states before it and within, and the two halves of the MLP.
    activations = 4 * state + 2 * state * llama.config.intermediate_size / hidden
    evaluating = parameters * itemsize + activations + logits
    exact = itemsize if source.is_exact else own
    saving = parameters * exact + (remaining * own if exact != own else 0)
    return round(max(scoring, evaluating, saving))
