"""Jobs: what a config asks for, as stages in a workdir.

A workdir holds `config.json` (what was asked, and the identity of the inputs), `run.json` (stages
and figures, rewritten whenever a stage begins or ends), `stages/` (see `jprune.pipeline.stages`)
and whatever the stages write.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from ml_collections import ConfigDict

from jprune.core.errors import InputError, unknown
from jprune.core.files import RUN, PathLike, as_path, jsonable, read_json, write_json
from jprune.core.mesh import use_mesh
from jprune.core.processes import is_writer, on_writer, together
from jprune.pipeline.stages import Stage, StageState, plan, run_stages

Config: TypeAlias = Mapping[str, Any] | ConfigDict

SCHEMA_VERSION = 1
CONFIG = "config.json"

# What the key `job` of a config may be: the function that turns such a config into a Job.
JOBS = {
    "depth": "jprune.pipeline.depth:depth_job",
    "finetune": "jprune.pipeline.finetune:finetune_job",
    "merge": "jprune.pipeline.merging:merging_job",
    "pretrain": "jprune.pipeline.pretrain:pretrain_job",
    "rounds": "jprune.pipeline.rounds:rounds_job",
    "search": "jprune.pipeline.search:search_job",
    "sparse": "jprune.pipeline.sparse:sparse_job",
}


@dataclass(frozen=True)
class Job:
    """Stages and what they add up to.

    Attributes:
      stages: in order.
      identity: what a workdir belongs to, by kind: {"model": {"name", "sha256", ...}}. A workdir
        with another sha256 of any kind is refused.
      summary: the content of run.json, apart from the stages, from the values of those stages that
        are done, by name.
      estimate: what `--dry_run` says about sizes; given the states of the stages.
    """

    stages: tuple[Stage, ...]
    identity: Mapping[str, Mapping[str, Any]]
    summary: Callable[[Mapping[str, Any]], Mapping[str, Any]]
    estimate: Callable[[Sequence[StageState]], list[str]]


def make_job(config: Config, workdir: PathLike) -> Job:
    """The job of a config: `config["job"]` says which kind, the other keys are that kind's.

    Raises:
      InputError: an unknown job or key, or a value that cannot be.
    """
    values = plain(config)
    kind = values.pop("job", "depth")
    if kind not in JOBS:
        raise unknown("job", str(kind), JOBS)
    module, _, function = JOBS[kind].partition(":")
    return getattr(importlib.import_module(module), function)(values, workdir)


def run_config(
    config: Config, workdir: PathLike, *, name: str = "", until: str | None = None
) -> dict[str, Any]:
    """Runs what a config asks for, as far as the workdir does not have it yet.

    Args:
      config: a mapping or ConfigDict, such as `configs/shortened_llama.py` gives.
      workdir: a new folder, or that of an earlier run of the same model.
      name: what the config is called, for the record.
      until: the last stage to run.

    Returns:
      The content of run.json.

    Raises:
      InputError: bad config or inputs, a workdir of another model or in use.
      Interrupted: SIGTERM; run again to continue.
    """
    with use_mesh(config.get("mesh") or None):
        return _run_config(config, workdir, name, until)


def _run_config(config: Config, workdir: PathLike, name: str, until: str | None) -> dict[str, Any]:
    job = together(lambda: make_job(config, workdir))
    on_writer(lambda: check_identity(workdir, job.identity))
    root = as_path(workdir)
    record = jsonable(
        {
            "schema_version": SCHEMA_VERSION,
            "name": name,
            **job.identity,
            "config": plain(config),
        }
    )

    def begin() -> None:
        check_identity(workdir, job.identity)
        _write_if_new(root / CONFIG, record)

    def after(states: Sequence[StageState]) -> None:
        if is_writer():
            _write_if_new(root / RUN, _run_json(job, states))

    return _run_json(job, run_stages(workdir, job.stages, until=until, begin=begin, after=after))


def dry_run(config: Config, workdir: PathLike) -> list[str]:
    """What `run_config` would do, in lines: the stages, the sizes. Nothing is written.

    Raises: as `run_config`.
    """
    with use_mesh(config.get("mesh") or None):
        job = together(lambda: make_job(config, workdir))
        on_writer(lambda: check_identity(workdir, job.identity))
        states = plan(workdir, job.stages)
        width = max(len(state.name) for state in states)
        lines = [
            f"{state.name:{width}}  "
            + ("cached" if state.status == "cached" else f"to run: {'; '.join(state.reasons)}")
            for state in states
        ]
        return lines + job.estimate(states)


def check_identity(workdir: PathLike, identity: Mapping[str, Mapping[str, Any]]) -> None:
    """Raises InputError if a workdir belongs to other inputs than `identity`."""
    file = as_path(workdir) / CONFIG
    if not file.exists():
        _check_free(workdir)
        return
    recorded = read_json(file)
    for kind, new in identity.items():
        old = recorded.get(kind) if isinstance(recorded, dict) else None
        if not isinstance(old, dict) or "sha256" not in old:
            raise InputError(
                f"{file} was not written by this job; give --workdir a new or empty folder"
            )
        if old["sha256"] != new["sha256"]:
            raise InputError(
                f"{workdir} belongs to another {kind}: {old.get('name')} "
                f"(sha256 {old['sha256'][:12]}), not {new.get('name')} "
                f"({new['sha256'][:12]}); give another --workdir, or remove {workdir}"
            )


def _check_free(workdir: PathLike) -> None:
    """Raises InputError if a folder that is no workdir yet holds anything but hidden files."""
    folder = as_path(workdir)
    if not folder.is_dir():
        return
    others = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if others:
        raise InputError(
            f"{workdir} is no workdir, and holds {others[0]!r}"
            f"{' and more' if len(others) > 1 else ''}; give --workdir a new or empty folder"
        )


def plain(config: Any) -> Any:
    """A config with ConfigDicts turned into dicts."""
    if isinstance(config, str) or not hasattr(config, "keys"):
        return config
    return {str(key): plain(config[key]) for key in config}


def _run_json(job: Job, states: Sequence[StageState]) -> dict[str, Any]:
    done = {s.name: s.value for s in states if s.status in ("done", "cached")}
    stages = [{"name": s.name, "status": s.status, "seconds": s.seconds} for s in states]
    content = {"schema_version": SCHEMA_VERSION, "stages": stages, **job.summary(done)}
    return jsonable(content)


def _write_if_new(path, content: dict[str, Any]) -> None:
    """Writes JSON unless the file says the same: a run that has nothing to do leaves no trace."""
    try:
        same = path.exists() and read_json(path) == content
    except InputError:
        same = False
    if not same:
        write_json(path, content)
