"""Measures the speed of the methods on this device.

    jprune bench --suite=scores --shape=llama2-7b --out=bench.json
    jprune bench --suite=masks --shape=llama2-7b --repeats=1
    jprune bench --suite=search --shape=llama2-7b --repeats=9
    jprune bench --suite=generate --shape=llama2-7b --batch=1,16,64
    jprune bench --suite=retrain --shape=llama2-7b --micro_batch=32
    jprune bench --suite=scores --model=DIR

A shape has random weights. Each job runs once to compile and then several times; the median counts.
The limit is the job's FLOPs at the rate of a large matrix product, or what it has to read at that
of a large copy, both measured in the same run.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from absl.flags import FlagValues

from jprune.checkpoints.placement import placement
from jprune.cli import common, flag, output
from jprune.cli.parsing import Flags
from jprune.core.errors import InputError
from jprune.core.mesh import current_mesh
from jprune.core.progress import log
from jprune.llama import Llama, count_params, init
from jprune.measure import (
    SHAPES,
    Ceilings,
    Job,
    Measurement,
    generate_jobs,
    mask_jobs,
    measure,
    measure_ceilings,
    peak_bytes,
    peak_flops,
    retrain_jobs,
    score_jobs,
    search_jobs,
    shape_named,
)
from jprune.report.tables import count, significant

SUITES: dict[str, Callable[..., list[Job]]] = {
    "scores": score_jobs,
    "masks": mask_jobs,
    "search": search_jobs,
    "generate": generate_jobs,
    "retrain": retrain_jobs,
}
# Flags that the jobs of one suite alone have, with the names of their arguments.
OPTIONS = {
    "generate": {"batch": "batches", "prompt_length": "prompt_length", "new_tokens": "new_tokens"},
    "retrain": {"micro_batch": "micro_batch", "remat": "remat"},
}

# Seconds on one H200 at the Llama-2-7B shape in bfloat16: the published loops in PyTorch, and what
# jprune aims at; of a search, the ratio of a trial to a forward pass. In the order of the suite's
# jobs.
TARGETS: dict[tuple[str, str, str], dict[str, tuple[float | None, ...]]] = {
    ("scores", "llama2-7b", "H200"): {
        "reference": (7.40, 0.233, 3.84),
        "goal": (0.50, 0.12, 2.9),
    },
    ("masks", "llama2-7b", "H200"): {"reference": (35.5, 221.0), "goal": (18.0, 45.0)},
    ("search", "llama2-7b", "H200"): {"goal_ratio": (None, 1.1)},
    ("retrain", "llama2-7b", "H200"): {"reference": (1.80, None, None), "goal": (0.80, None, None)},
    ("generate", "llama2-7b", "H200"): {
        "reference": (3.19, 3.40, 2.63),
        "goal": (0.48, 0.55, 0.70),
    },
}


def define(flags: FlagValues) -> None:
    """The flags of `jprune bench`."""
    common.define_common(flags, "file for the figures, JSON")
    flag.text(flags, "suite", "scores", f"what to measure: {', '.join(SUITES)}")
    flag.text(flags, "shape", None, f"random weights of a shape: {', '.join(SHAPES)}")
    flag.integer(flags, "repeats", 3, "timed runs of each job", at_least=1)
    flag.texts(flags, "batch", "prompts at a time, of generate; by default 1,16,64")
    flag.integer(flags, "prompt_length", None, "tokens of a prompt; by default 12", at_least=1)
    flag.integer(flags, "new_tokens", None, "after each prompt; by default 128", at_least=1)
    flag.integer(
        flags, "micro_batch", None, "windows of a pass, of retrain; by default 16", at_least=1
    )
    flag.switch(flags, "remat", "recompute activations, of retrain: less memory, more time")


def run(flags: Flags) -> int:
    """Measures, prints, writes."""
    output.check_out_file(flags.out)
    common.one_of(flags, "suite", SUITES)
    options = _options(flags)
    llama = _model(flags)
    mesh, device = current_mesh(), jax.devices()[0]
    devices = mesh.size if mesh else 1
    results: dict[str, Measurement] = {}
    figures: dict[str, Mapping[str, float]] = {}
    for job in SUITES[flags.suite](llama, seed=flags.seed, **options):
        log.info("measuring: %s", job.name)
        result = measure(job, flags.repeats)
        figures[job.name] = job.figures(result, results) if job.figures else {}
        results[job.name] = result
    # The ceilings come last: their matrices would count as the jobs' memory.
    used = max((peak_bytes(one) or 0 for one in jax.local_devices()[:devices]), default=0) or None
    ceilings = measure_ceilings(llama.dtype)
    rows = _rows(flags, list(results.values()), ceilings, device, devices)
    rows = [{**row, **figures[row["job"]]} for row in rows]
    kind = device.device_kind if devices == 1 else f"{devices} x {device.device_kind}"
    print(f"{kind}, {count(count_params(llama))} parameters, {llama.dtype}")
    print(_table(rows))
    print(
        f"measured ceilings: {ceilings.flops / 1e12:.4g} TFLOP/s, "
        f"{ceilings.bandwidth / 1e12:.3g} TB/s"
        + (f"; peak memory {used / 2**30:.1f} GiB" if used else "")
        + (" (of each device)" if devices > 1 else "")
    )
    measured = {"flops": ceilings.flops, "bandwidth": ceilings.bandwidth}
    output.write(
        flags,
        {
            "suite": flags.suite,
            "model": flags.shape or flags.model,
            "dtype": str(llama.dtype),
            "ceilings": measured,
            "devices": devices,
            "peak_bytes": used,
            "jobs": rows,
        },
    )
    return 0


def _options(flags: Flags) -> dict[str, Any]:
    """What the flags say that the jobs of one suite alone have."""
    given = {}
    for suite, names in OPTIONS.items():
        for name, argument in names.items():
            if flags[name].value in (None, [], False):
                continue
            if suite != flags.suite:
                raise InputError(f"--{name} is of the suite {suite}: add --suite={suite}")
            given[argument] = _sizes(flags.batch) if name == "batch" else flags[name].value
    return given


def _sizes(texts: list[str]) -> list[int]:
    sizes = [int(size) if size.strip().isdigit() else 0 for size in texts]
    if 0 in sizes:
        raise InputError(f"--batch={','.join(texts)}: give integers from 1 on, as 1,16")
    return sizes


def _model(flags: Flags) -> Llama:
    """The model to measure, block by block as loaded."""
    if bool(flags.shape) == bool(flags.model):
        raise InputError("give either --shape=NAME (random weights) or --model=DIR")
    if flags.model:
        return common.load(flags).llama
    shape = shape_named(flags.shape)
    dtype = flags.dtype or ("float32" if jax.default_backend() == "cpu" else "bfloat16")
    key = jax.random.key(flags.seed)
    place = placement(None, shape.config)  # the devices of --mesh
    return init(shape.config, shape.num_layers, key, common.as_dtype(dtype), place=place)


def _rows(
    flags: Flags,
    results: list[Measurement],
    ceilings: Ceilings,
    device: jax.Device,
    devices: int,
) -> list[dict[str, Any]]:
    """One row per job. Each of the devices has its share of the job's FLOPs."""
    peak = peak_flops(device)
    targets: dict[str, tuple[float | None, ...]] = next(
        (
            value
            for (suite, shape, kind), value in TARGETS.items()
            if (suite, shape, devices) == (flags.suite, flags.shape, 1)
            and kind in device.device_kind
        ),
        {},
    )
    return [
        {
            "job": result.name,
            "seconds": result.seconds,
            "slowest": result.slowest,
            "compile_seconds": result.compile_seconds,
            "flops": result.flops,
            "mfu": result.utilisation(peak * devices if peak else None),
            "limit": ceilings.limit(result.flops // devices, result.read_bytes // devices),
            **{name: values[at] for name, values in targets.items()},
        }
        for at, result in enumerate(results)
    ]


def _table(rows: list[dict[str, Any]]) -> str:
    columns = ["seconds", "slowest", "compile_seconds", "limit", "mfu", "goal", "reference"]
    columns += ["ratio", "goal_ratio", "trials_per_minute", "tokens_per_second", "compilations"]
    shown = [name for name in columns if any(row.get(name) is not None for row in rows)]
    cells = [(row["job"], *(significant(row.get(name), 3) for name in shown)) for row in rows]
    return output.table(cells, ("job", *(name.replace("_", " ") for name in shown)))
