"""Checkpoints of a training run through Orbax: the latest complete one counts."""

import contextlib
import dataclasses
import math
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import jax

from jprune.core.errors import InputError
from jprune.core.files import PathLike, is_remote, jsonable, read_json, write_json
from jprune.core.paths import resolved
from jprune.retrain.step import TrainState

IDENTITY = "training.json"
VALIDATION = "validation_nll"


class Checkpoints:
    """The checkpoints in one folder, local or on object storage.

    Orbax writes a checkpoint aside and renames it (on object storage: marks it complete last), so
    a run that is killed while saving leaves the one before.
    """

    def __init__(
        self, folder: PathLike, identity: dict[str, Any], keep: int = 2, keep_best: bool = False
    ):
        """Opens or makes `folder`.

        Args:
          folder: of this run alone.
          identity: what the run is (settings, data, shapes), as JSON.
          keep: how many checkpoints are kept, the last ones.
          keep_best: the one with the least validation loss is kept too.

        Raises:
          InputError: the folder holds checkpoints of a run with another identity, or is on an
            object store that refuses them.
        """
        import orbax.checkpoint as ocp
        from orbax.checkpoint import checkpoint_managers as managers

        kept: list[Any] = [managers.LatestN(n=keep)]
        if keep_best:
            best = managers.BestN(
                get_metric_fn=lambda metrics: metrics[VALIDATION], reverse=True, n=1
            )
            kept.append(best)
        self.keep_best = keep_best
        self.folder = resolved(folder)  # Orbax wants absolute paths
        self.folder.mkdir(parents=True, exist_ok=True)
        _check_identity(self.folder / IDENTITY, jsonable(identity))
        options = ocp.CheckpointManagerOptions(
            preservation_policy=managers.AnyPreservationPolicy(kept),
            best_fn=(lambda metrics: metrics[VALIDATION]) if keep_best else None,
            best_mode="min",
            create=True,
            enable_async_checkpointing=False,
        )
        with _store_errors(self.folder):
            self._manager = ocp.CheckpointManager(self.folder / "steps", options=options)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._manager.close()

    @property
    def latest(self) -> int | None:
        """The step of the last complete checkpoint."""
        return self._manager.latest_step()

    @property
    def best(self) -> int | None:
        """The step of the checkpoint with the least validation loss; None if none is kept."""
        losses = self._losses()
        return min(losses, key=losses.__getitem__) if losses else None

    def would_be_best(self, validation_nll: float) -> bool:
        """Whether the best is kept and no checkpoint has so little validation loss."""
        return self.keep_best and all(validation_nll < loss for loss in self._losses().values())

    def _losses(self) -> dict[int, float]:
        """The validation losses of checkpoints by step, as far as they have any."""
        steps = self._manager.all_steps() if self.keep_best else []
        found = {step: self._manager.metrics(step) for step in steps}
        losses = {step: metrics[VALIDATION] for step, metrics in found.items() if metrics}
        return {step: loss for step, loss in losses.items() if math.isfinite(loss)}

    def save(self, state: TrainState, validation_nll: float | None = None) -> None:
        """Saves `state` under its step, unless that is saved already, with its validation loss."""
        import orbax.checkpoint as ocp

        step = int(state.step)
        # Orbax warns of checkpoints without a figure.
        loss = math.inf if validation_nll is None else validation_nll
        metrics = {VALIDATION: loss} if self.keep_best else None
        if step != self.latest:
            with _store_errors(self.folder):
                self._manager.save(
                    step,
                    args=ocp.args.StandardSave(_as_dict(state)),
                    metrics=metrics,
                )

    def restore(self, like: TrainState, step: int | None = None) -> TrainState:
        """A checkpoint, by default the last, with the shapes, dtypes and shardings of `like`.

        The arrays of `like` are deleted, so that there is never more than one state.
        """
        import orbax.checkpoint as ocp

        target = jax.tree.map(ocp.utils.to_shape_dtype_struct, _as_dict(like))
        jax.tree.map(lambda leaf: leaf.delete(), _as_dict(like))
        step = self.latest if step is None else step
        with _store_errors(self.folder):
            restored = self._manager.restore(step, args=ocp.args.StandardRestore(target))
        return TrainState(**restored)


@contextlib.contextmanager
def _store_errors(folder: PathLike) -> Iterator[None]:
    """Turns what an object store refuses into one line: Orbax goes there by three libraries."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        if not is_remote(folder):
            raise
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise InputError(
            f"cannot keep checkpoints in {folder}: {reason}; it takes the role Storage Object User "
            "and the permission storage.buckets.get"
        ) from error


def _as_dict(state: TrainState) -> dict[str, Any]:
    """`state` for Orbax, which rebuilds trees with leaves that a TrainState would not take."""
    return {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}


def _check_identity(path, identity: dict[str, Any]) -> None:
    if not path.exists():
        write_json(path, identity)
        return
    before = read_json(path)
    changed = sorted(k for k in {*before, *identity} if before.get(k) != identity.get(k))
    if changed:
        raise InputError(
            f"{path.parent} holds checkpoints of another run (different: {', '.join(changed)}); "
            "give a new folder or the settings of that run"
        )
