"""Records of finished stages: what they wrote, and whether it is still there."""

from collections.abc import Iterable, Mapping
from typing import Any

from jprune.core.errors import InputError
from jprune.core.files import PathLike, as_path, is_remote, read_json, sha256_file
from jprune.core.progress import log
from jprune.core.remote import versions

RECORD_VERSION = 1

# Larger outputs are told apart by their size alone: hashing them again would cost a resume minutes.
MAX_HASHED_BYTES = 64 * 1024 * 1024


def record_path(workdir: PathLike, name: str):
    """Where the record of a stage is."""
    return as_path(workdir) / "stages" / f"{name}.json"


def read_record(path) -> dict[str, Any]:
    """A record; empty if there is none, or none that can be read."""
    try:
        record = read_json(path) if path.exists() else {}
    except InputError as error:
        log.warning("%s; the stage will run again", error)
        return {}
    return record if isinstance(record, dict) else {}


def files_of(workdir: PathLike, outputs: Iterable[str]) -> list[str]:
    """The files that `outputs` are or hold, as sorted relative paths."""
    root = as_path(workdir)
    found: list[str] = []
    for output in outputs:
        path = root / output
        if path.is_dir():
            found += [f"{output}/{name}" for name in versions(path)]
        elif path.exists():
            found.append(output)
        elif not is_remote(path):  # an object store has no folders that hold nothing
            raise ValueError(f"the stage did not write its output {output}")
    return sorted(found)


def describe(workdir: PathLike, file: str) -> dict[str, Any]:
    """What tells a file from another of that name."""
    path = as_path(workdir) / file
    size = path.stat().length
    return {
        "path": file,
        "size": size,
        "sha256": sha256_file(path) if size <= MAX_HASHED_BYTES else None,
    }


def defect(workdir: PathLike, output: Mapping[str, Any]) -> str:
    """What is wrong with an output that a record describes; nothing if it is as it was."""
    path = as_path(workdir) / output["path"]
    try:
        size = path.stat().length
    except (FileNotFoundError, NotADirectoryError):
        return "is missing"
    if size != output["size"]:
        return "was changed"
    if output["sha256"] is not None and sha256_file(path) != output["sha256"]:
        return "was changed"
    return ""


def remove_orphans(workdir: PathLike, known: Iterable[str], outputs: Iterable[str]) -> None:
    """Removes what earlier runs of a stage wrote and this one did not."""
    keep = [as_path(output).parts for output in outputs]
    for name in known:
        parts = as_path(name).parts
        # An output that is still written, a file in one, or a folder that holds one.
        if any(parts[: len(k)] == k or k[: len(parts)] == parts for k in keep):
            continue
        path = as_path(workdir) / name
        if path.is_dir():
            path.rmtree()
        else:
            path.unlink(missing_ok=True)


def remove_strangers(workdir: PathLike, names: Iterable[str], outputs: Iterable[str]) -> None:
    """Removes the records of stages other than `names`, and what only these wrote.

    The outputs go first: a record outlives them if the process dies in between.

    Args:
      workdir: where they are.
      names: the stages of the job.
      outputs: what these write; it stays.
    """
    names, outputs = set(names), list(outputs)
    folder = as_path(workdir) / "stages"
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        if path.stem in names:
            continue
        record = read_record(path)
        log.info("%s is no longer part of this job: its results are removed", path.stem)
        remove_orphans(workdir, written_by(record), outputs)
        path.unlink()


def written_by(record: Mapping[str, Any]) -> set[str]:
    """What a stage may have written, by its record."""
    return {*(output["path"] for output in record.get("outputs", ())), *record.get("begun", ())}
