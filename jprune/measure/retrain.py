"""The suite `retrain`: a step of LoRA, of a whole and of a shorter model, and of all parameters."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jprune.core.mesh import batch_sharding
from jprune.core.trees import matches
from jprune.llama import Llama, stack
from jprune.llama.flops import training_flops
from jprune.llama.names import named_params
from jprune.measure.timing import Job
from jprune.retrain import ADAPTERS, AdamW, Batch, adamw, next_token_loss, split, train_step
from jprune.retrain.step import init_state
from jprune.transforms import add_lora, drop_blocks

# How Shortened LLaMA retrains (arXiv 2402.02834, appendix), and how many of 32 blocks it removes.
BATCH, LENGTH, RANK = 64, 256, 8
REMOVED = 6 / 32
# From this size on, float32 masters and two moments of all parameters do not fit on a card.
MOST_TRAINED = 4_000_000_000


def retrain_jobs(
    llama: Llama,
    batch: tuple[int, int] = (BATCH, LENGTH),
    micro_batch: int = 16,
    remat: bool = False,
    remove: int | None = None,
    seed: int = 0,
) -> list[Job]:
    """Optimizer steps on random tokens; all in the dtype of the model, over float32 masters.

    LoRA of rank 8 on all seven projections, of the model and of it without its last blocks; and all
    parameters, where three float32 numbers each may fit on a device.

    Args:
      llama: the model.
      batch: windows and tokens per window of a step.
      micro_batch: windows of a forward and backward pass.
      remat: recompute activations.
      remove: how many blocks are gone in the second job; by default 6 of 32.
      seed: of everything random.
    """
    layers = llama.num_layers
    gone = round(REMOVED * layers) if remove is None else remove
    size = f"{batch[0]} x {batch[1]} tokens"
    make = functools.partial(_job, batch=batch, micro=micro_batch, remat=remat, seed=seed)
    short = functools.partial(drop_blocks(range(layers - gone, layers)), llama)
    jobs = [
        make(f"LoRA step, {layers} blocks, {size}", lambda: _adapted(llama), ADAPTERS),
        make(f"LoRA step, {layers - gone} blocks, {size}", lambda: _adapted(short()), ADAPTERS),
    ]
    if sum(leaf.size for leaf in jax.tree.leaves(llama)) <= MOST_TRAINED:
        jobs.append(make(f"step of all parameters, {layers} blocks, {size}", lambda: llama, "**"))
    return jobs


def _adapted(llama: Llama) -> Llama:
    return add_lora(rank=RANK)(llama)


def _job(
    name: str,
    model: Callable[[], Llama],
    where: Any,
    *,
    batch: tuple[int, int],
    micro: int,
    remat: bool,
    seed: int,
) -> Job:
    """Each run is one more step from where the last one ended."""
    shapes = jax.eval_shape(lambda: stack(model()))
    trained = [name for name in named_params(shapes) if matches(where, name)]
    count = batch[0] * batch[1]

    @functools.cache  # its arrays are there only once it is measured
    def step() -> Callable[[], Any]:
        return _stepper(stack(model()), where, batch, micro, remat, seed)

    return Job(
        name,
        lambda: step()(),
        training_flops(shapes, trained, count, batch[1]),
        figures=lambda one, _: {"tokens_per_second": count / one.seconds},
    )


def _stepper(
    llama: Llama, where: Any, batch: tuple[int, int], micro: int, remat: bool, seed: int
) -> Callable[[], Any]:
    params, rest = split(llama, where)
    optimizer = adamw(AdamW(warmup_steps=0), 1000)
    state = init_state(params, optimizer)
    shape = (batch[0] // micro, micro, batch[1])
    ids = np.random.default_rng(seed).integers(0, llama.config.vocab_size, shape).astype(np.int32)
    data = jax.device_put(Batch(ids, np.ones(shape, bool)), batch_sharding(shape, axis=1))

    def run() -> Any:
        nonlocal state
        state, metrics = train_step(
            state,
            rest,
            data,
            jax.random.key(seed),
            jax.tree_util.Partial(next_token_loss),
            optimizer=optimizer,
            dtype=llama.dtype,
            remat=remat,
        )
        return metrics.loss

    return run
