"""The training loop: any part of a Llama, resumable to the same losses."""

import contextlib
import dataclasses
import functools
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from jprune.core.errors import Interrupted
from jprune.core.files import PathLike, as_path
from jprune.core.progress import log, progress
from jprune.data import TrainingSet
from jprune.llama.kernels import Lora
from jprune.llama.model import Llama, count_params
from jprune.llama.stack import stack, unstack
from jprune.retrain.batches import Grouping, batch_indices, counted_lengths
from jprune.retrain.checkpoint import Checkpoints
from jprune.retrain.history import History, StepLog
from jprune.retrain.optimizer import adamw, schedule
from jprune.retrain.settings import TrainSettings, check_settings
from jprune.retrain.split import Rest, Where, join, split
from jprune.retrain.step import (
    Batch,
    Objective,
    init_state,
    next_token_loss,
    train_step,
)

HISTORY = "losses.jsonl"


@dataclasses.dataclass(frozen=True)
class Trained:
    """The result: the model, and the history (one row a step or validation)."""

    llama: Llama
    history: list[dict[str, Any]]


def train(
    llama: Llama,
    windows: TrainingSet | Int[np.ndarray, "num length"],
    settings: TrainSettings,
    *,
    validation: TrainingSet | Int[np.ndarray, "num_validation validation_length"] | None = None,
    where: Where = "**",
    objective: Objective = next_token_loss,
    checkpoint_dir: PathLike | None = None,
    batch_sharding: jax.sharding.Sharding | None = None,
    consume: bool = False,
) -> Trained:
    """Trains the parameters of `llama` that match `where` on token windows.

    With `checkpoint_dir` the run saves every `checkpoint_every` steps and on SIGTERM, and a call
    with the same arguments continues from the last checkpoint with the same data and, on CPU, bit
    for bit the same losses. They are in `checkpoint_dir/losses.jsonl`.

    Args:
      llama: the model; it may be stacked, and is then returned stacked.
      windows: what to train on; of token ids alone every one counts but the first of a window.
      settings: see `TrainSettings`.
      validation: windows whose mean next-token NLL is reported along the way, of what counts.
      where: the parameters that train, by their names in the stacked form; see `split`. By default
        all of them; `jprune.retrain.ADAPTERS` for what `add_lora` put on the model. The others have
        no gradients, and lie in the dtype of the passes.
      objective: loss sum and token count of a micro-batch; see `next_token_loss`. Arrays that it
        needs, such as a teacher, are bound with `jax.tree_util.Partial`.
      checkpoint_dir: a folder of this run alone, local or on object storage.
      batch_sharding: of the windows of a step [micro-batches, batch, length]; parameters keep the
        sharding they have.
      consume: delete the arrays of `llama` as soon as they are copied; it is then unusable, and
        what lives while training is float32 parameters, optimizer state and frozen parameters.

    Returns:
      The trained model in the dtypes of `llama`, and the losses.

    Raises:
      InputError: the settings do not fit each other or the checkpoints, or there are no windows.
      Interrupted: SIGTERM came; the state is saved.
      JpruneError: the loss is no longer finite.
    """
    check_settings(settings)
    data = _training_set(windows)
    grouping = _grouping(data, settings)
    held_out = None if validation is None else _training_set(validation)
    stacked = stack(llama, consume=consume)
    was_stacked = stacked is llama
    params, rest = split(stacked, where)
    log.info("training %d of %d parameters", count_params(params), count_params(stacked))
    dtypes = {name: value.dtype for name, value in params.items()}
    adapters = _adapters(stacked)
    optimizer = adamw(settings.optimizer, settings.steps)
    state = init_state(params, optimizer)
    if consume:
        jax.block_until_ready(state.params)
        jax.tree.map(lambda leaf: leaf.delete(), params)
    del llama, stacked, params  # only their float32 copies in the state are needed from here on
    compute_rest = _cast_frozen(rest, settings.dtype)
    step = functools.partial(
        train_step,
        rest=compute_rest,
        key=jax.random.key(settings.seed),
        objective=jax.tree_util.Partial(objective),
        optimizer=optimizer,
        dtype=settings.dtype,
        remat=settings.remat,
    )
    evaluate = functools.partial(
        _mean_nll, rest=compute_rest, settings=settings, sharding=batch_sharding
    )
    with contextlib.ExitStack() as resources:
        store = None
        if checkpoint_dir is not None:
            identity = _identity(settings, data, state.params) | adapters
            store = resources.enter_context(Checkpoints(checkpoint_dir, identity, settings.keep))
            if store.latest is not None:
                state = store.restore(state)
                log.info("continuing from step %d in %s", store.latest, checkpoint_dir)
        stop = resources.enter_context(_sigterm() if store else contextlib.nullcontext(_never))
        start = int(state.step)
        history = History(checkpoint_dir and as_path(checkpoint_dir) / HISTORY, start)
        rates = np.asarray(schedule(settings.optimizer, settings.steps)(np.arange(settings.steps)))
        steps = StepLog(history, rates)

        for number in progress(range(start, settings.steps), "training", unit="step"):
            batch = _batch(data, settings, grouping, number, batch_sharding)
            state, metrics = step(state, batch=batch)
            done = number + 1
            steps.add(done, metrics)
            last = done == settings.steps
            if held_out is not None and (last or _due(done, settings.validate_every)):
                steps.settle()
                nll = evaluate(state.params, data=held_out)
                log.info("step %d: loss %.4f, validation %.4f", done, history.rows[-1]["loss"], nll)
                history.append({"step": done, "validation_nll": nll})
            stopped = stop() and not last
            if store and (last or stopped or _due(done, settings.checkpoint_every)):
                steps.settle()
                history.flush()
                store.save(state)
            if stopped:
                raise Interrupted(f"interrupted after step {done}; saved in {checkpoint_dir}")
        steps.settle()

    masters = state.params
    del state  # and the optimizer's part with it
    result = join({name: value.astype(dtypes[name]) for name, value in masters.items()}, rest)
    # The runs of a model that came in another form are copies of its layers: nobody else's.
    return Trained(result if was_stacked else unstack(result, consume=True), history.rows)


def _training_set(windows: TrainingSet | Int[np.ndarray, "num length"]) -> TrainingSet:
    return windows if isinstance(windows, TrainingSet) else TrainingSet.of(windows)


def _identity(settings: TrainSettings, data: TrainingSet, params) -> dict[str, Any]:
    """What must be equal for a checkpoint to continue this run."""
    free = ("checkpoint_every", "keep")  # these change no figure
    chosen = {k: v for k, v in dataclasses.asdict(settings).items() if k not in free}
    return {
        "settings": chosen | {"compute_dtype": settings.dtype.name},
        "data": data.sha256,
        "parameters": {name: list(value.shape) for name, value in params.items()},
    }


def _adapters(llama: Llama) -> dict[str, Any]:
    """What the losses depend on of adapters, apart from their arrays; nothing without any."""
    leaves = jax.tree.leaves(llama, is_leaf=lambda x: isinstance(x, Lora))
    found = sorted({(x.scale, x.dropout) for x in leaves if isinstance(x, Lora)})
    return {"adapters": found} if found else {}


def _grouping(data: TrainingSet, settings: TrainSettings) -> Grouping | None:
    if not settings.group_by_length:
        return None
    lengths = counted_lengths(data.mask)
    return Grouping(lengths, data.ids.shape[1], settings.batch_size, settings.seed)


def _batch(
    data: TrainingSet, settings: TrainSettings, grouping: Grouping | None, step: int, sharding
) -> Batch:
    """The micro-batches of one step, on the device."""
    if grouping is None:
        chosen = batch_indices(len(data), settings.batch_size, settings.seed, step)
        width = data.ids.shape[1]
    else:
        chosen, width = grouping.step(step)
    shape = (settings.micro_batches, -1, width)
    taken = _taken(data, chosen)
    return jax.device_put(jax.tree.map(lambda x: x[:, :width].reshape(shape), taken), sharding)


def _taken(data: TrainingSet, chosen: Int[np.ndarray, " chosen"] | slice) -> Batch:
    """Some windows, in memory."""
    segments = None if data.segments is None else data.segments[chosen].astype(np.int32)
    return Batch(data.ids[chosen].astype(np.int32), np.asarray(data.mask[chosen]), segments)


def _cast_frozen(rest: Rest, dtype) -> Rest:
    """`rest` with its numbers in `dtype`; integers and masks stay."""
    frozen = {
        name: value.astype(dtype)
        if jnp.issubdtype(value.dtype, jnp.floating) and value.dtype != dtype
        else value  # shared, not copied
        for name, value in rest.frozen.items()
    }
    return dataclasses.replace(rest, frozen=frozen)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


@functools.partial(jax.jit, static_argnames="dtype")
def _nll_sums(params, rest, batch: Batch, dtype):
    model = join({name: value.astype(dtype) for name, value in params.items()}, rest)
    return next_token_loss(model, jax.tree.map(lambda x: x[0], batch))


def _mean_nll(params, rest, data: TrainingSet, settings: TrainSettings, sharding) -> float:
    """Mean next-token NLL over all tokens that count; every batch has the same shape."""
    size = settings.batch_size // settings.micro_batches
    total = count = 0.0
    for start in range(0, len(data), size):
        taken = _taken(data, slice(start, start + size))
        missing = ((0, size - len(taken.ids)), (0, 0))
        filled = jax.tree.map(lambda x, missing=missing: np.pad(x, missing)[None], taken)
        batch = jax.device_put(filled, sharding)
        sums = _nll_sums(params, rest, batch, settings.dtype)
        total, count = total + float(sums[0]), count + float(sums[1])
    return total / max(count, 1.0)


def _never() -> bool:
    return False


@contextlib.contextmanager
def _sigterm() -> Iterator[Callable[[], bool]]:
    """A function that says whether SIGTERM has come since; outside the main thread, never."""
    if threading.current_thread() is not threading.main_thread():
        yield _never
        return
    came = threading.Event()
    before = signal.signal(signal.SIGTERM, lambda *_: came.set())
    try:
        yield came.is_set
    finally:
        signal.signal(signal.SIGTERM, before)
