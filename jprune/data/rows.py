"""Rows with fields: of data sets on the hub, or of local files that serve in their stead."""

import dataclasses
import itertools
from collections.abc import Iterator
from typing import Any

from jprune.core import InputError
from jprune.data.known import local_copy
from jprune.data.readers import read_rows


@dataclasses.dataclass(frozen=True)
class HubRows:
    """A split of a data set on the hub.

    Attributes:
      repository: `owner/name`.
      split: the split.
      config: which of the data sets of the repository, if there are several.
    """

    repository: str
    split: str
    config: str | None = None


def named_rows(
    name: str, hub: HubRows, limit: int | None = None, data_dir: str | None = None
) -> list[tuple[str, Any]]:
    """The rows of a named data set, each with its position for messages.

    Args:
      name: of the data set.
      hub: where it is on the hub.
      limit: the first so many rows; None for all.
      data_dir: a folder that serves the name from `data_dir/name.*` or `data_dir/name/`, the
        split of `hub`, or else validation, where files are named for splits.

    Raises:
      InputError: the folder is not there or has files that do not fit, a file cannot be read or
        has no rows, or the download fails.
    """
    copy = local_copy(name, "evaluation", data_dir, (hub.split, "validation")) if data_dir else None
    found = _local(copy[0]) if copy else _downloaded(name, hub)
    rows = list(itertools.islice(found, limit))
    if not rows:
        raise InputError(f"{name} has no rows in {', '.join(copy[0]) if copy else hub.repository}")
    return rows


def _local(files: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    for path in files:
        yield from ((f"{path}, {position}", row) for position, row in read_rows(path))


def _downloaded(name: str, hub: HubRows) -> Iterator[tuple[str, Any]]:
    try:
        from datasets import load_dataset

        rows = load_dataset(hub.repository, hub.config, split=hub.split)
    except Exception as error:  # the library raises anything from OSError to KeyError here
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"cannot download {name!r} ({hub.repository} on the Hugging Face hub): {reason}. "
            f"A local copy serves instead: --data_dir=D with D/{name}.jsonl or D/{name}.parquet"
        ) from error
    yield from ((f"row {number} of {name}", row) for number, row in enumerate(rows, 1))
