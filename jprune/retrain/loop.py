"""The training loop: any part of a Llama, resumable to the same losses."""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int

from jprune.core.errors import InputError, Interrupted, JpruneError
from jprune.core.files import PathLike, as_path
from jprune.core.progress import log, progress
from jprune.data import TrainingSet, check_vocabulary
from jprune.llama.kernels import Lora
from jprune.llama.model import Llama, count_params
from jprune.llama.stack import stack, unstack
from jprune.retrain.batches import Grouping, batch_indices, counted_lengths, taken
from jprune.retrain.checkpoint import Checkpoints
from jprune.retrain.history import NotFinite, StepLog, open_history, summary
from jprune.retrain.optimizer import adamw, schedule
from jprune.retrain.settings import FREE, TrainSettings, check_settings
from jprune.retrain.speed import Speed
from jprune.retrain.split import Rest, Where, join, split
from jprune.retrain.step import (
    Batch,
    Objective,
    init_state,
    next_token_loss,
    train_step,
)
from jprune.retrain.stopping import never, preempted, sigterm
from jprune.retrain.tensorboard import Curves
from jprune.retrain.validation import mean_nll

# Files beside the checkpoints: what a repeated run gives again, and that with its speed.
HISTORY, METRICS, TENSORBOARD = "losses.jsonl", "metrics.jsonl", "tensorboard"


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

    With `checkpoint_dir` the run saves every `checkpoint_every` steps, on SIGTERM and when the
    machine is to be taken away, and a call with the same arguments continues from the last
    checkpoint with the same data and, on CPU, bit for bit the same losses. They are in
    `checkpoint_dir/losses.jsonl`; `metrics.jsonl` has them too, with `seconds`,
    `tokens_per_second` and `mfu` (model FLOPs over the device's peak; null where that is unknown).

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
      InputError: the settings do not fit each other or the checkpoints, or windows do not fit the
        model, or there are none.
      Interrupted: SIGTERM or a notice of preemption came; the state is saved.
      JpruneError: the loss or a parameter is no longer finite; checkpoints before that are kept.
    """
    check_settings(settings)
    data = _training_set(windows)
    grouping = _grouping(data, settings)
    held_out = None if validation is None else _training_set(validation)
    _check_data(llama, data, held_out, settings, checkpoint_dir)
    stacked = stack(llama, consume=consume)
    was_stacked = stacked is llama
    params, rest = split(stacked, where)
    log.info("training %d of %d parameters", count_params(params), count_params(stacked))
    dtypes = {name: value.dtype for name, value in params.items()}
    adapters = _adapters(stacked)
    speed = Speed(stacked, list(params))
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
        mean_nll, rest=compute_rest, settings=settings, sharding=batch_sharding
    )
    with contextlib.ExitStack() as resources:
        store = None
        if checkpoint_dir is not None:
            identity = _identity(settings, data, state.params) | adapters
            store = resources.enter_context(
                Checkpoints(checkpoint_dir, identity, settings.keep, settings.keep_best)
            )
            if store.latest is not None:
                state = store.restore(state)
                log.info("continuing from step %d in %s", store.latest, checkpoint_dir)
        stop = resources.enter_context(sigterm() if store else contextlib.nullcontext(never))
        start = int(state.step)
        histories = [open_history(checkpoint_dir, name, start) for name in (HISTORY, METRICS)]
        history, timed = histories
        rates = np.asarray(schedule(settings.optimizer, settings.steps)(np.arange(settings.steps)))
        latest: dict[str, Any] = {}
        curves = None
        if settings.tensorboard and checkpoint_dir is not None:
            curves = resources.enter_context(Curves(as_path(checkpoint_dir) / TENSORBOARD, start))

        def show(row: dict[str, Any]) -> None:
            if "loss" in row:
                latest.update(row)
            if curves is not None:
                curves.add(row)

        steps = StepLog(history, rates, timed, speed, show)
        resources.enter_context(_kept(store))

        for number in progress(
            *(range(start, settings.steps), "training"), unit="step", note=lambda: summary(latest)
        ):
            begun = speed.now()
            batch = _batch(data, settings, grouping, number, batch_sharding)
            state, metrics = step(state, batch=batch)
            done = number + 1
            steps.add(done, metrics, begun, settings.batch_size, batch.ids.shape[-1])
            last, better, nll = done == settings.steps, False, None
            if held_out is not None and (last or _due(done, settings.validate_every)):
                steps.settle()
                nll = evaluate(state.params, data=held_out)
                log.info("step %d: loss %.4f, validation %.4f", done, history.rows[-1]["loss"], nll)
                steps.validated(done, nll)
                better = store is not None and store.would_be_best(nll)
            stopped = (stop() or preempted(done)) and not last
            if store and (last or stopped or better or _due(done, settings.checkpoint_every)):
                steps.settle()
                _check_finite(state.params, done)
                for one in histories:
                    one.flush()
                store.save(state, nll)
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


def _check_data(
    llama: Llama,
    data: TrainingSet,
    held_out: TrainingSet | None,
    settings: TrainSettings,
    folder: PathLike | None,
) -> None:
    """Raises InputError for windows that the model cannot read, or settings that lack something."""
    longest = llama.config.max_position_embeddings
    for windows, purpose in ((data, "train"), (held_out, "validate")):
        if windows is None:
            continue
        if not len(windows):
            raise InputError(f"there are no windows to {purpose} on")
        if windows.ids.shape[1] > longest:
            raise InputError(
                f"windows of {windows.ids.shape[1]} tokens to {purpose} on are longer than the "
                f"{longest} that the model reads (max_position_embeddings); cut shorter ones"
            )
        check_vocabulary(windows.ids, llama.embed.shape[0])
    if settings.keep_best and (held_out is None or folder is None):
        raise InputError("keep_best takes windows to validate on and a folder of checkpoints")
    if settings.tensorboard and folder is None:
        raise InputError("tensorboard takes a folder of checkpoints, to write beside them")


@contextlib.contextmanager
def _kept(store: Checkpoints | None) -> Iterator[None]:
    """Says of a run that has gone wrong what is left of it, and what to do."""
    try:
        yield
    except NotFinite as error:
        left = "there is no checkpoint"
        if store is not None and store.latest is not None:
            left = f"the checkpoint of step {store.latest} is kept in {store.folder}"
        raise JpruneError(f"{error}; {left}; lower the learning rate") from None


def _check_finite(params, step: int) -> None:
    """Raises NotFinite for parameters that no checkpoint should hold."""
    if not _all_finite(params):
        raise NotFinite(f"the parameters are not finite after step {step}")


@jax.jit
def _all_finite(params):
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in params.values()]))


def _identity(settings: TrainSettings, data: TrainingSet, params) -> dict[str, Any]:
    """What must be equal for a checkpoint to continue this run."""
    chosen = {k: v for k, v in dataclasses.asdict(settings).items() if k not in FREE}
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
    batch = taken(data, chosen)
    return jax.device_put(jax.tree.map(lambda x: x[:, :width].reshape(shape), batch), sharding)


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
