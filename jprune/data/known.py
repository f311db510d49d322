"""The data sources that have names: where they are on the Hugging Face hub and on local disks."""

import dataclasses
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from jprune.core import InputError, as_path, log
from jprune.data.readers import EXTENSIONS, extension, text_field, text_of_rows

Purpose = Literal["evaluation", "calibration"]

# Hub repositories with a script loader, which `datasets` no longer runs, are read from the parquet
# copy that the hub keeps of every data set.
_PARQUET_COPY = "refs/convert/parquet"

# How a local file's name shows which split it is, in order of preference for each purpose. The
# test split never serves for calibration.
_SPLIT_WORDS = {
    "test": ("test",),
    "validation": ("validation", "valid", "val", "dev"),
    "train": ("train",),
}
_PREFERRED = {
    "evaluation": ("test", "validation"),
    "calibration": ("train", "validation"),
}


@dataclasses.dataclass(frozen=True)
class HubPart:
    """One part of a data set on the hub: the files with it, and the split that they belong to."""

    split: str
    files: str


@dataclasses.dataclass(frozen=True)
class Hub:
    """A data set on the hub.

    Attributes:
      repository: `owner/name`.
      parts: what serves which purpose. They are single files of the large sets, disjoint.
      revision: the branch.
    """

    repository: str
    parts: Mapping[str, HubPart]
    revision: str | None = None


def _hub(repository, evaluation, calibration, revision=None) -> Hub:
    parts = {"evaluation": HubPart(*evaluation), "calibration": HubPart(*calibration)}
    return Hub(repository, parts, revision)


KNOWN = {
    "wikitext2": _hub(
        "Salesforce/wikitext",
        ("test", "wikitext-2-raw-v1/test-*.parquet"),
        ("train", "wikitext-2-raw-v1/train-*.parquet"),
    ),
    "ptb": _hub(
        "ptb-text-only/ptb_text_only",
        ("test", "penn_treebank/test/*.parquet"),
        ("train", "penn_treebank/train/*.parquet"),
        _PARQUET_COPY,
    ),
    "c4": _hub(
        "allenai/c4",
        ("validation", "en/c4-validation.00000-of-00008.json.gz"),
        ("train", "en/c4-train.00000-of-01024.json.gz"),
    ),
    # No split but train: two different files.
    "bookcorpus": _hub(
        "bookcorpus/bookcorpus",
        ("train", "plain_text/train/0001.parquet"),
        ("train", "plain_text/train/0000.parquet"),
        _PARQUET_COPY,
    ),
    "alpaca-cleaned": _hub(
        "yahma/alpaca-cleaned",
        ("train", "alpaca_data_cleaned.json"),
        ("train", "alpaca_data_cleaned.json"),
    ),
    "slimpajama": _hub(
        "DKYoon/SlimPajama-6B",
        ("test", "data/test-*.parquet"),
        ("train", "data/train-00000-of-*.parquet"),
    ),
}


def hub_documents(name: str, purpose: Purpose, field: str | None = None) -> Iterator[str]:
    """The documents of a known data set, downloaded with `datasets` (and cached by it).

    Raises InputError if the download fails; it says which local file would serve instead.
    """
    rows = _hub_table(name, purpose)
    strings = {
        column: getattr(kind, "dtype", None) in ("string", "large_string")
        for column, kind in rows.features.items()
    }
    chosen = text_field(strings, name, field)
    if chosen is not None:
        rows = rows.select_columns([chosen])
    yield from text_of_rows(_numbered(rows), name, chosen)


def hub_rows(name: str, purpose: Purpose) -> Iterator[tuple[str, Any]]:
    """The rows of a known data set with all their fields, each with its position.

    Raises InputError as `hub_documents` does.
    """
    yield from _numbered(_hub_table(name, purpose))


def _numbered(rows: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    return ((f"row {number}", row) for number, row in enumerate(rows, 1))


def _hub_table(name: str, purpose: Purpose) -> Any:
    hub = KNOWN[name]
    part = hub.parts[purpose]
    try:
        from datasets import load_dataset

        return load_dataset(
            hub.repository,
            data_files={part.split: part.files},
            revision=hub.revision,
            split=part.split,
            verification_mode="no_checks",  # the sizes on record are those of the whole set
        )
    except Exception as error:  # the library raises anything from OSError to KeyError here
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"cannot download {name!r} ({hub.repository} on the Hugging Face hub): {reason}. "
            f"A local copy serves instead: --data_dir=D with D/{name}.raw or D/{name}.jsonl"
        ) from error


def local_copy(
    name: str, purpose: Purpose, data_dir: str, splits: Sequence[str] = ()
) -> tuple[tuple[str, ...], str | None] | None:
    """Files and split that serve a known name from `data_dir/name.*` or `data_dir/name/`.

    Where file or folder names tell the splits apart, the purpose's split is taken: test for
    evaluation and train for calibration, else validation for either; or the first of `splits`
    that is there. Files of one kind in the folder are read one after the other.

    Returns:
      The files in order and their split (None if the names tell nothing), or None if `data_dir`
      has nothing of that name.

    Raises:
      InputError: no such folder; no file of the right split; several copies of the same text.
    """
    folder = as_path(data_dir)
    if not folder.is_dir():
        raise InputError(f"--data_dir: no such folder: {data_dir}")
    beside = [p for p in folder.iterdir() if p.name.startswith(f"{name}.") and extension(p.name)]
    inside = folder / name
    # Two levels, as in name/train/0000.parquet; object stores do not list deeper trees well.
    below = [*inside.glob("*"), *inside.glob("*/*")] if not beside and inside.is_dir() else []
    paths = sorted(str(p) for p in beside or below if extension(p.name) and p.is_file())
    if not paths:
        if inside.is_dir():
            raise InputError(f"{inside} has no text file ({', '.join(EXTENSIONS)})")
        return None
    return _of_split(paths, name, purpose, str(folder), splits or _PREFERRED[purpose])


def _of_split(paths, name, purpose, folder, wanted) -> tuple[tuple[str, ...], str | None]:
    splits = {path: _split_of(path.removeprefix(folder)) for path in paths}
    split = next((s for s in (*wanted, None) if s in splits.values()), "missing")
    if split == "missing":
        raise InputError(
            f"{folder} has no {wanted[0]} split of {name!r} for {purpose} (files: "
            f"{', '.join(paths)}); add one, or name a file instead of {name!r}"
        )
    chosen = tuple(path for path in paths if splits[path] == split)
    if len({extension(path) for path in chosen}) > 1 or (len(chosen) > 1 and _flat(chosen, folder)):
        raise InputError(f"{name!r} could be any of {', '.join(chosen)}; name one of them instead")
    if split is not None and split != wanted[0]:
        log.info("%s: no %s split in %s, using %s", name, wanted[0], folder, ", ".join(chosen))
    return chosen, split


def _split_of(path: str) -> str | None:
    words = re.split(r"[^a-z]+", path.lower())
    return next((s for s, names in _SPLIT_WORDS.items() if set(names) & set(words)), None)


def _flat(paths: tuple[str, ...], folder: str) -> bool:
    """Whether the files lie in `folder` itself, where one name should have one file."""
    return any("/" not in path.removeprefix(folder).lstrip("/") for path in paths)
