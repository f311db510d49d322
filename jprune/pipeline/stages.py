"""Stages: named steps of a job whose results are kept in a workdir and computed only once.

A stage depends on its own keys (config values, content hashes of inputs) and on the stages that it
needs; its fingerprint is the hash of both. When it has run, a record `W/stages/NAME.json` is
written last and atomically, so a process killed at any moment leaves whole stages or none. A stage
whose record has the right fingerprint, and whose outputs are there, is not run again, unless one
that it needs was, and gave another value: on other devices a result may differ in its last bits.
"""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from jprune.core.errors import Interrupted, unknown
from jprune.core.files import PathLike, jsonable, remove_leftovers, sha256_json, write_json
from jprune.core.processes import on_writer
from jprune.core.progress import log
from jprune.core.version import __version__
from jprune.pipeline.interruption import interruptible
from jprune.pipeline.lease import LeaseLost
from jprune.pipeline.lock import workdir_lock
from jprune.pipeline.records import (
    RECORD_VERSION,
    defect,
    describe,
    files_of,
    read_record,
    record_path,
    remove_orphans,
    remove_strangers,
    written_by,
)


@dataclass(frozen=True)
class Stage:
    """One step of a job.

    Attributes:
      name: unique in the job, and the name of the record.
      keys: everything the result depends on, apart from `needs`; JSON values.
      run: computes the result. It is given the values of the stages in `needs` by name, writes the
        files in `outputs`, each atomically, and returns a small JSON value (or None).
      needs: names of earlier stages.
      outputs: files and folders that `run` writes, relative to the workdir. A file in a folder
        that another stage also names is that stage's.
    """

    name: str
    keys: Mapping[str, Any]
    run: Callable[[Mapping[str, Any]], Any]
    needs: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True)
class StageState:
    """Where a stage stands.

    Attributes:
      name: the stage's.
      status: "pending", "running", "done", "cached", "failed" or "interrupted".
      seconds: how long the stage took when it was computed; None where it was not.
      value: what its `run` returned.
      reasons: why the stage is not cached, one clause each.
    """

    name: str
    status: str
    seconds: float | None = None
    value: Any = None
    reasons: tuple[str, ...] = ()


def fingerprints(stages: Sequence[Stage]) -> dict[str, str]:
    """The fingerprint of every stage: the hash of its keys and of the fingerprints it needs.

    The version of jprune counts too: another one may compute something else from the same keys.

    Raises:
      ValueError: a stage that needs one that does not come before it, or a name used twice.
    """
    result: dict[str, str] = {}
    for stage in stages:
        if stage.name in result or not set(stage.needs) <= result.keys():
            raise ValueError(f"stage {stage.name!r} is not new, or needs one that is not before it")
        result[stage.name] = sha256_json(
            {
                "version": RECORD_VERSION,
                "jprune": __version__,
                "name": stage.name,
                "keys": stage.keys,
                "needs": {need: result[need] for need in stage.needs},
            }
        )
    return result


def plan(workdir: PathLike, stages: Sequence[Stage]) -> list[StageState]:
    """What `run_stages` would do: each stage "cached", or "pending" and why. Changes nothing."""
    prints = fingerprints(stages)
    return [_look(workdir, stage, prints) for stage in stages]


def run_stages(
    workdir: PathLike,
    stages: Sequence[Stage],
    *,
    until: str | None = None,
    begin: Callable[[], None] = lambda: None,
    after: Callable[[Sequence[StageState]], None] = lambda states: None,
) -> list[StageState]:
    """Runs the stages that are not cached, in order.

    What stages of an earlier job left here that are not in this one is removed first, so that
    everything in `workdir` belongs together.

    Args:
      workdir: where records and outputs live; made if it is not there.
      stages: each after those that it needs.
      until: the last stage to run; later ones stay pending (or cached).
      begin: called first, once no other process can be at work in `workdir`.
      after: called whenever a stage begins or ends with the states of all, to summarise the job.

    Returns:
      The state of every stage.

    Raises:
      Interrupted: the process got SIGTERM; whatever was finished is recorded.
      InputError: another process works in `workdir`, or there is no stage `until`.
    """
    names = [stage.name for stage in stages]
    if until is not None and until not in names:
        raise unknown("stage", until, names)
    last = len(stages) if until is None else names.index(until) + 1
    prints = fingerprints(stages)
    outputs = [output for stage in stages for output in stage.outputs]
    with contextlib.ExitStack() as stack, interruptible() as check:
        check_lock: Callable[[], None] = lambda: None  # noqa: E731

        def enter_workdir() -> None:
            nonlocal check_lock
            check_lock = stack.enter_context(workdir_lock(workdir))
            remove_leftovers(workdir)
            begin()
            remove_strangers(workdir, names, outputs)

        on_writer(enter_workdir)
        states = {stage.name: _look(workdir, stage, prints) for stage in stages}

        def enter(state: StageState) -> None:
            states[state.name] = state
            after(list(states.values()))

        after(list(states.values()))
        for number, stage in enumerate(stages[:last], start=1):
            check()
            label = f"[{number}/{len(stages)}] {stage.name}"
            # Looked at again: an earlier stage may have replaced a folder that this one wrote into.
            state = _look(workdir, stage, prints)
            if state.status == "cached":
                log.info("%s: cached", label)
                states[stage.name] = state
                continue
            log.info("%s: running (%s)", label, "; ".join(state.reasons))
            enter(replace(state, status="running"))
            # What other stages write may lie in a folder of this one.
            others = (other for other in stages if other is not stage)
            foreign = frozenset(output for other in others for output in other.outputs)
            started = time.monotonic()
            try:
                values = {need: states[need].value for need in stage.needs}
                state = _run(workdir, stage, values, prints, foreign, check_lock)
                check()
            except LeaseLost:
                raise  # what is here is another's now
            except BaseException as error:
                stopped = isinstance(error, Interrupted | KeyboardInterrupt)
                seconds = time.monotonic() - started
                if state.status != "done":
                    status = "interrupted" if stopped else "failed"
                    state = StageState(stage.name, status, seconds)
                enter(state)
                raise
            log.info("%s: done in %.1f s", label, state.seconds)
            enter(state)
        after(list(states.values()))
        return list(states.values())


def _run(
    workdir: PathLike,
    stage: Stage,
    values: Mapping[str, Any],
    prints: Mapping[str, str],
    foreign: frozenset[str],
    check_lock: Callable[[], None],
) -> StageState:
    """Runs one stage and records it."""
    path = record_path(workdir, stage.name)

    def begin() -> list[str]:
        check_lock()
        known = written_by(read_record(path)) | {*stage.outputs}
        # From here on the old record must not count: its outputs are about to be replaced.
        write_json(path, {"name": stage.name, "status": "running", "begun": known})
        return sorted(known)

    known = on_writer(begin)
    started = time.monotonic()
    value = jsonable(stage.run(values))
    seconds = round(time.monotonic() - started, 3)

    def finish() -> Any:
        written = [file for file in files_of(workdir, stage.outputs) if file not in foreign]
        outputs = [describe(workdir, file) for file in written]
        check_lock()
        remove_orphans(workdir, known, stage.outputs)
        write_json(
            path,
            {
                "version": RECORD_VERSION,
                "jprune": __version__,
                "name": stage.name,
                "status": "done",
                "fingerprint": prints[stage.name],
                "keys": stage.keys,
                "needs": {need: prints[need] for need in stage.needs},
                "values": {need: sha256_json(values[need]) for need in stage.needs},
                "seconds": seconds,
                "outputs": outputs,
                "value": value,
            },
        )
        return value

    # All go on with the figures that were recorded.
    return StageState(stage.name, "done", seconds, on_writer(finish))


def _look(workdir: PathLike, stage: Stage, prints: Mapping[str, str]) -> StageState:
    """The state of a stage, which all processes take from the one that owns the workdir."""
    state = on_writer(lambda: asdict(_recorded(workdir, stage, prints)))
    return StageState(**(state | {"reasons": tuple(state["reasons"])}))


def _recorded(workdir: PathLike, stage: Stage, prints: Mapping[str, str]) -> StageState:
    """The state of a stage as its record and outputs tell it."""
    record = read_record(record_path(workdir, stage.name))
    if not record:
        return StageState(stage.name, "pending", reasons=("not run yet",))
    if record.get("status") != "done":
        return StageState(stage.name, "pending", reasons=("was not finished",))
    reasons: tuple[str, ...]
    if record.get("fingerprint") != prints[stage.name]:
        reasons = _differences(stage, record, prints)
    else:
        reasons = tuple(
            f"{output['path']} {reason}"
            for output in record["outputs"]
            if (reason := defect(workdir, output))
        ) + _other_values(workdir, stage, record)
    status = "pending" if reasons else "cached"
    value = None if reasons else record.get("value")
    seconds = None if reasons else record.get("seconds")
    return StageState(stage.name, status, seconds, value, reasons)


def _other_values(workdir: PathLike, stage: Stage, record: Mapping[str, Any]) -> tuple[str, ...]:
    """Which needed stages have run since, under the same keys, and given another value."""
    found = []
    for need, digest in record.get("values", {}).items():
        other = read_record(record_path(workdir, need))
        if other.get("status") == "done" and sha256_json(other.get("value")) != digest:
            found.append(f"{need} gave another result")
    return tuple(found)


def _differences(stage: Stage, record: Mapping[str, Any], prints: Mapping[str, str]) -> tuple:
    """Which keys and needed stages differ from those of a record."""
    old, new = record.get("keys", {}), jsonable(stage.keys)
    changed = [
        f"{key} was {_short(old.get(key))}, is {_short(new.get(key))}"
        for key in sorted({*old, *new})
        if key not in old or key not in new or old[key] != new[key]
    ]
    needs = record.get("needs", {})
    changed += [f"{need} changed" for need in stage.needs if needs.get(need) != prints[need]]
    if record.get("jprune") != __version__:
        changed.append(f"made by jprune {record.get('jprune', 'of another version')}")
    return tuple(changed) or ("made by another version",)


def _short(value: Any) -> str:
    if isinstance(value, str) and len(value) == 64:  # a sha256
        return value[:12]
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
