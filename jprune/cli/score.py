"""Scores every block or sublayer of a model: how much it matters, least first.

    jprune score --model=DIR --data=c4 --criterion=perplexity --out=scores.json
    jprune prune --model=DIR --scores=scores.json --remove=4 --out=PRUNED

Prints a table and a bar chart. --out=NAME.json also writes NAME.png, the chart, and
NAME.windows.npz, the token windows, which --data=NAME.windows.npz:ids uses again.
"""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl.flags import FlagValues

from jprune.checkpoints import Checkpoint
from jprune.cli import common, flag, output
from jprune.cli.parsing import Flags
from jprune.core.errors import InputError
from jprune.core.files import as_path, sha256_array, write_bytes
from jprune.data import SAMPLES, calibration_windows, check_vocabulary, find_source
from jprune.report.tables import plus_minus, significant
from jprune.scores import CRITERIA, DATA_FREE, GRANULARITIES, Scores, options_of, parse_layers
from jprune.scores import score as compute_scores

# Options of single criteria, by the names that they have there.
OPTIONS = {
    "remove": "angular: how many contiguous blocks; greedy: how many units",
    "power": "magnitude, taylor: the exponent p",
    "reduce": "taylor: abs_of_sum, sum_of_abs or fisher",
}


def define(flags: FlagValues) -> None:
    """The flags of `jprune score`."""
    common.define_common(flags, "file for the scores, JSON")
    criteria, free = ", ".join(CRITERIA), ", ".join(DATA_FREE)
    flag.text(flags, "criterion", "perplexity", f"{criteria}, or your own as module:function")
    flag.text(flags, "granularity", "block", f"units to score: {', '.join(GRANULARITIES)}")
    flag.text(flags, "data", None, f"a known name, a file, or file.npz:key; not needed for {free}")
    flag.text(flags, "data_dir", None, "folder with files of the known names")
    flag.text(flags, "sample", "documents", f"how windows are drawn: {', '.join(SAMPLES)}")
    flag.integer(flags, "num_windows", 32, "calibration windows", at_least=1)
    flag.integer(flags, "window_length", 128, "tokens per window", at_least=2)
    flag.text(flags, "protect", "", "layers that must stay, for example 0-3,-2,-1")
    flag.integer(flags, "remove", None, OPTIONS["remove"], at_least=1)
    flag.number(flags, "power", None, OPTIONS["power"])
    flag.text(flags, "reduce", None, OPTIONS["reduce"])


def run(flags: Flags) -> int:
    """Scores, prints, writes."""
    output.check_out_file(flags.out)
    options = _options(flags)
    common.one_of(flags, "granularity", GRANULARITIES)
    common.one_of(flags, "sample", SAMPLES)
    uses_data = flags.criterion not in DATA_FREE
    common.need(flags, "model", *["data"] * uses_data)
    checkpoint = common.load(flags)
    protected = parse_layers(flags.protect, checkpoint.llama.num_layers)
    ids = _windows(flags, checkpoint) if uses_data else None
    scores = compute_scores(
        checkpoint.llama,
        flags.criterion,
        ids,
        granularity=flags.granularity,
        protect=protected,
        **options,
    )
    print(table(scores))
    model = {"path": flags.model, "name": checkpoint.name}
    protocol = None if ids is None else _protocol(flags, checkpoint, ids)
    result = output.write(flags, {"model": model} | scores.to_json(), protocol)
    if flags.out:
        _write_beside(flags.out, result, ids)
    return 0


def table(scores: Scores) -> str:
    """One row per unit: score, difference in NLL, place in the order of removal, and a bar.

    Angular scores have a row per run of contiguous blocks instead; the best run is marked.
    """
    if scores.window_scores is not None and scores.n is not None:
        return _run_table(scores, scores.window_scores, scores.n)
    shown: Sequence[float | None] = scores.scores
    columns: dict[str, list[Any]] = {
        "unit": [str(unit) for unit in scores.units],
        "score": [significant(value, 5) for value in shown],
    }
    if scores.delta_nll is not None:
        shown = scores.delta_nll
        errors = scores.standard_error or (None,) * len(shown)
        columns["NLL difference"] = [
            plus_minus(delta, error, sign=True) for delta, error in zip(shown, errors, strict=True)
        ]
    places: dict[int, Any] = {at: place for place, at in enumerate(scores.order, start=1)}
    columns["removal"] = [
        places.get(position, "protected" if unit.layer in scores.protected else "")
        for position, unit in enumerate(scores.units)
    ]
    columns[""] = output.bars(shown)
    return output.table(zip(*columns.values(), strict=True), list(columns))


def _run_table(scores: Scores, values: Sequence[float], n: int) -> str:
    rows = []
    for start, (value, bar) in enumerate(zip(values, output.bars(values), strict=True)):
        blocks = range(start, start + n)
        mark = "protected" if set(blocks) & set(scores.protected) else ""
        mark = "first" if scores.order[:1] == (start,) else mark
        name = f"blocks {start}-{blocks[-1]}" if n > 1 else f"block {start}"
        rows.append((name, significant(value, 5), mark, bar))
    return output.table(rows, (f"{n} in a row" if n > 1 else "unit", "score", "removal", ""))


def _options(flags: Flags) -> dict[str, Any]:
    accepted = options_of(flags.criterion)
    options = {name: flags[name].value for name in OPTIONS if flags[name].value is not None}
    for name in options:
        if accepted is not None and name not in accepted:
            users = [criterion for criterion in CRITERIA if name in (options_of(criterion) or ())]
            raise InputError(
                f"--{name} does not apply to the criterion {flags.criterion}; "
                f"it is an option of {' and '.join(users)}"
            )
    return options | ({"seed": flags.seed} if "seed" in (accepted or ()) else {})


def _windows(flags: Flags, checkpoint: Checkpoint) -> np.ndarray:
    ids = calibration_windows(
        flags.data,
        checkpoint.tokenizer,
        flags.num_windows,
        flags.window_length,
        sample=flags.sample,
        seed=flags.seed,
        data_dir=flags.data_dir,
        bos=checkpoint.llama.config.bos,
    )
    check_vocabulary(ids, checkpoint.llama.config.vocab_size, flags.data)
    return ids


def _protocol(flags: Flags, checkpoint: Checkpoint, ids: np.ndarray) -> dict[str, Any]:
    source = find_source(flags.data, "calibration", flags.data_dir)
    drawn = not source.is_tokens
    return {
        "data": flags.data,
        "split": source.split,
        "sample": flags.sample if drawn else None,
        "seed": flags.seed if drawn else None,
        "num_windows": ids.shape[0],
        "window_length": ids.shape[1],
        "dtype": str(checkpoint.llama.dtype),
        "ids_sha256": sha256_array(ids),
    }


def _write_beside(out: str, result: dict[str, Any], ids: np.ndarray | None) -> None:
    from jprune.report import parse_scores
    from jprune.report.plots import png, score_figure

    path = as_path(out)
    write_bytes(path.with_suffix(".png"), png(score_figure(parse_scores(path.stem, result, out))))
    if ids is not None:
        buffer = io.BytesIO()
        np.savez(buffer, ids=ids)
        write_bytes(path.with_suffix(".windows.npz"), buffer.getvalue())
