"""The losses of a training run, from the file that training leaves in a workdir."""

import json
from typing import Any

from jprune.core.errors import InputError
from jprune.core.files import PathLike, as_path, read_bytes
from jprune.report.fields import mapping

LOSSES = "losses.jsonl"


def read_losses(path: PathLike) -> dict[str, Any] | None:
    """Training and validation losses by step, in the form that `plots.training_figure` draws.

    None where there is no such file, or no loss in it.

    Raises:
      InputError: a line that is not JSON.
    """
    path = as_path(path)
    if not path.exists():
        return None
    try:
        rows = [mapping(json.loads(line)) for line in read_bytes(path).decode().splitlines()]
    except ValueError as error:
        raise InputError(f"{path} is not JSON, one object a line: {error}") from None
    loss = [row for row in rows if "loss" in row]
    validation = [row for row in rows if "validation_nll" in row]
    if not loss:
        return None
    return {
        "step": [row.get("step") for row in loss],
        "loss": [row["loss"] for row in loss],
        "validation": {
            "step": [row.get("step") for row in validation],
            "loss": [row["validation_nll"] for row in validation],
        },
    }
