"""Which runs may stand in one table: finished ones of one kind, measured in the same way."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jprune.core.errors import InputError
from jprune.core.files import as_path, read_json
from jprune.core.paths import resolved
from jprune.report.reading import Evaluation, RunRecord, read_run

_FINISHED = ("done", "cached")
# Kinds of runs that prune a model: what they reach is compared at the same protocol.
_PRUNING = ("depth", "sparse", "rounds")


@dataclass(frozen=True)
class Run:
    """A finished run as a comparison needs it.

    Attributes:
      label: the workdir as it was given.
      folder: the same for any two ways to name a folder.
      record: what its files say.
      before: perplexities of the unpruned model by data source, where measured like `after`.
      after: perplexities of the pruned one.
      retrained: of the pruned one once it was trained again, where measured like `after`.
      contents: what identifies the content of each data source, where that is recorded.
    """

    label: str
    folder: str
    record: RunRecord
    before: Mapping[str, Evaluation]
    after: Mapping[str, Evaluation]
    retrained: Mapping[str, Evaluation]
    contents: Mapping[str, Any]

    @property
    def seed(self) -> int | None:
        """The seed of the run."""
        return self.record.setting("seed")

    def final(self, data: str) -> Evaluation:
        """What the run ends with: retrained, where it was."""
        return self.retrained.get(data, self.after[data])

    @property
    def job(self) -> str:
        """Its kind: depth, sparse, pretrain, ..."""
        return str(self.record.setting("job") or "depth")


def read_runs(workdirs: Sequence[Any]) -> list[Run]:
    """Reads workdirs, in order.

    Raises:
      InputError: one is none, was given twice, or its run is not finished.
    """
    runs: list[Run] = []
    for workdir in workdirs:
        run = _read(workdir)
        twin = next((other for other in runs if other.folder == run.folder), None)
        if twin is not None:
            raise InputError(f"{twin.label} and {run.label} are the same folder; give it once")
        runs.append(run)
    return runs


def _read(workdir: Any) -> Run:
    record, label = read_run(workdir), str(workdir)
    open_stages = [s for s in record.stages if s.get("status") not in _FINISHED]
    if open_stages:
        stage = open_stages[0]
        raise InputError(
            f"the run in {label} is not finished: its stage {stage.get('name')} is "
            f"{stage.get('status')}; repeat its `jprune run` to continue it"
        )
    after = {e.data: e for e in record.evaluations if e.phase == "after" and e.ppl is not None}
    if not after:
        raise InputError(f"the run in {label} has no perplexity to compare")

    def alike(phase: str) -> dict[str, Evaluation]:
        found = (e for e in record.evaluations if e.phase == phase and e.data in after)
        return {e.data: e for e in found if e.protocol == after[e.data].protocol}

    phases = (alike("before"), after, alike("retrained"))
    return Run(label, str(resolved(label)), record, *phases, _contents(workdir))


def _contents(workdir: Any) -> dict[str, Any]:
    """Fingerprints of the data evaluated on, by name, from the record of the stage."""
    path = as_path(workdir) / "stages" / "evaluate-after.json"
    record = read_json(path) if path.exists() else {}
    keys = record.get("keys") if isinstance(record, Mapping) else None
    if not isinstance(keys, Mapping):
        return {}
    return dict(zip(keys.get("eval") or (), keys.get("data") or (), strict=False))


def check_comparable(runs: Sequence[Run]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The data sources that all runs were evaluated on, and those that only some were.

    Raises:
      InputError: runs of different kinds (but depth and sparse runs go together), no common data
        source, a protocol or the content of the data that differs.
    """
    first = runs[0]
    for run in runs[1:]:
        if run.job != first.job and not {run.job, first.job} <= set(_PRUNING):
            raise InputError(
                f"{first.label} is a {first.job} run and {run.label} a {run.job} run; a table has "
                f"runs of one kind, or of {' and '.join(_PRUNING)}"
            )
    common = tuple(name for name in first.after if all(name in run.after for run in runs))
    if not common:
        found = "; ".join(f"{run.label}: {', '.join(run.after)}" for run in runs)
        raise InputError(f"these runs have no evaluation data in common ({found})")
    for name in common:
        for run in runs[1:]:
            _check_same(first, run, name)
    every = dict.fromkeys(name for run in runs for name in run.after)
    return common, tuple(name for name in every if name not in common)


def _check_same(first: Run, run: Run, data: str) -> None:
    check_protocol(first, run, data, first.after[data].protocol, run.after[data].protocol)


def check_protocol(
    first: Run, run: Run, data: str, old: Mapping[str, Any], new: Mapping[str, Any]
) -> None:
    """Raises InputError where two runs measured `data` differently, or it was not the same."""
    for field in dict.fromkeys((*old, *new)):
        if old.get(field) != new.get(field):
            raise InputError(
                f"{first.label} and {run.label} were evaluated with different protocols on "
                f"{data}: {field} {old.get(field)!r} and {new.get(field)!r}; a table never mixes "
                "protocols"
            )
    contents = [one.contents[data] for one in (first, run) if data in one.contents]
    if len(contents) == 2 and contents[0] != contents[1]:
        raise InputError(
            f"{first.label} and {run.label} were evaluated on different data: the content of "
            f"{data} is not the same; a table compares figures on the same data"
        )
