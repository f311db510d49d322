"""Jobs in stages that are cached by content, and resumed where they were stopped."""

from jprune.pipeline.interruption import interruptible
from jprune.pipeline.job import JOBS, Job, dry_run, make_job, run_config
from jprune.pipeline.lazy import Lazy
from jprune.pipeline.lock import workdir_lock
from jprune.pipeline.records import record_path
from jprune.pipeline.stages import Stage, StageState, fingerprints, plan, run_stages

__all__ = [
    "JOBS",
    "Job",
    "Lazy",
    "Stage",
    "StageState",
    "dry_run",
    "fingerprints",
    "interruptible",
    "make_job",
    "plan",
    "record_path",
    "run_config",
    "run_stages",
    "workdir_lock",
]
