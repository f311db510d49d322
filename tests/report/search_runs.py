"""Workdirs of searches as the JSON files that a report reads, with hand-made figures."""

import math

from tests.report.conftest import protocol

DATA = ("d/gsm8k.jsonl::question+answer@2/2", "d/mbpp.jsonl::code@2/2")
# NLL on both, by phase. Of the variants, math is best on the first, code on the second, and math
# by the mean; of the depth-pruned ones code by the mean; of the searches that remove, the base.
NLL = {
    "before": (4.0, 5.0),
    "math": (3.0, 5.5),
    "code": (4.75, 4.0),
    "depth-base": (4.75, 6.0),
    "depth-math": (4.5, 6.0),
    "depth-code": (5.0, 4.5),
    "removal-base": (4.5, 5.0),
    "removal-math": (3.75, 6.0),
    "removal-code": (5.5, 4.25),
    "merge-depth": (4.25, 5.5),
    "after": (3.5, 5.25),
}
STITCHED = {
    "removed": [{"layer": 1, "part": "block"}, {"layer": 4, "part": "block"}],
    "mixes": [
        {"layer": 0, "variants": [1]},
        {"layer": 2, "variants": [0, 1], "factor": 0.375},
        {"layer": 5, "variants": [0]},
    ],
}


def figures(nll, error=0.01):
    return [
        {"data": data, "ppl": math.exp(one), "nll": one, "standard_error": error, "tokens": 1000,
         "protocol": protocol(data=data, split="part 2 of 2")}
        for data, one in zip(DATA, nll, strict=True)
    ]  # fmt: skip


def curve(*scores):
    return [{"trials": i, "score": score} for i, score in enumerate(scores, start=1)]


def compared(*layers, **more):
    gone = [{"layer": layer, "part": "block"} for layer in layers]
    return {"candidate": {"removed": gone}} | more


def comparisons():
    return {
        "depth-base": compared(2, 3),
        "depth-math": compared(1, 3),
        "depth-code": compared(1, 2),
        "removal-base": compared(1, 2, score=1.25, trials={"complete": 6},
                                 curve=curve(None, 1.75, 1.5, 1.5, 1.375, 1.25)),
        "removal-math": compared(1, 3, score=1.125, trials={"complete": 6},
                                 curve=curve(1.5, 1.5, 1.25, 1.25, 1.25, 1.125)),
        "removal-code": compared(2, 3, score=1.5, trials={"complete": 6},
                                 curve=curve(1.875, 1.5, 1.5, 1.5, 1.5, 1.5)),
        "merge-depth": compared(
            1, 2, merge={"method": "ties", "options": {"density": 0.2, "factor": 1.0}}, tried=[]
        ),
    }  # fmt: skip


def front():
    """Three trials of which the second is the result."""
    return [
        {"number": 3, "values": [3.25, 6.0], "score": 1.05},
        {"number": 5, "values": [3.5, 5.25], "score": 0.975},
        {"number": 2, "values": [4.0, 5.125], "score": 1.03},
    ]


def search(**changes):
    return {
        "candidate": STITCHED,
        "objectives": [data.replace("2/2", "1/2") for data in DATA],
        "base": [4.0, 5.0], "values": [3.5, 5.25], "score": 0.975,
        "trials": {"complete": 4, "pruned": 3, "failed": 1},
        "front": front(),
        "curve": curve(None, None, 1.5, 1.25, 1.125, 1.0625, 1.0625, 0.975),
    } | changes  # fmt: skip


def run_json(nll=NLL, error=0.01, **changes):
    """run.json; changes replace its keys."""
    return {
        "stages": [{"name": "search", "status": "done", "seconds": 61.0}],
        "figures": {phase: {"perplexity": figures(one, error)} for phase, one in nll.items()},
        "removed": STITCHED["removed"],
        "model": {
            "name": "base", "sha256": "c0ffee" * 10, "layers": {"before": 6, "after": 4},
            "parameters": {"before": 6000, "after": 4000}, "bytes": {"before": 9000, "after": 6000},
        },
        "sparsity": {},
        "variants": [{"name": "math", "path": "m"}, {"name": "code", "path": "c"}],
        "comparisons": comparisons(),
        "search": search(),
    } | changes  # fmt: skip


def search_files(run=None, **config):
    """The files of a workdir by name; `config` are keys of its configuration."""
    keys = {"job": "search", "seed": 0, "model": "m/base", "sampler": "evolution"} | config
    return {
        "config.json": {"name": "gptailor", "config": keys},
        "run.json": run or run_json(),
        "recipe.json": {"version": 1, "sources": [], "steps": [{"op": "stitch", "args": {}}]},
        "model/config.json": {},
    }


def removal_files(**changes):
    """A search that only removed, on one model and one data source, compared with depth pruning."""
    run = run_json({p: n for p, n in NLL.items() if p in ("before", "after", "depth-base")})
    for value in run["figures"].values():
        value["perplexity"] = value["perplexity"][:1]
    one = {"objectives": ["c4"], "base": [4.0], "values": [4.5], "score": 1.125}
    only = search(**one, front=[{"number": 5, "values": [4.5], "score": 1.125}])
    only["candidate"] = {"removed": STITCHED["removed"]}
    run |= {"variants": [], "comparisons": {"depth-base": compared(2, 3)}, "search": only}
    return search_files(run | changes)
