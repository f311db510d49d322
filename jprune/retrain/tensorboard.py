"""The curves of a run for TensorBoard, by tensorboardX: TensorFlow is not needed."""

from collections.abc import Mapping
from typing import Any

from jprune.core.errors import InputError
from jprune.core.files import PathLike
from jprune.core.processes import is_writer


class Curves:
    """Writes numbers by step into a folder, of several processes by the first alone."""

    def __init__(self, folder: PathLike, step: int):
        """Goes on in `folder`; what is there of steps after `step` is not shown any more.

        Raises:
          InputError: tensorboardX is not installed.
        """
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise InputError(
                "tensorboard takes the package tensorboardX: pip install 'jprune[tensorboard]'"
            ) from None
        self._writer = SummaryWriter(str(folder), purge_step=step + 1) if is_writer() else None

    def __enter__(self) -> "Curves":
        return self

    def __exit__(self, *error: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def add(self, row: Mapping[str, Any]) -> None:
        """The numbers of a row, each a curve of its own, at its `step`."""
        if self._writer is None:
            return
        for name, value in row.items():
            if name != "step" and value is not None:
                self._writer.add_scalar(name, value, row["step"])
