"""A workdir of a run that removed two of six blocks, as the JSON files that a report reads."""

import json

import pytest

DELTA = [1.5, 0.02, 0.2, 0.021, 0.3, 0.9]
ERROR = [0.1, 0.01, 0.02, 0.01, 0.03, 0.05]
ORDER = [1, 3, 2, 4, 5]


def protocol(**changes):
    fields = {
        "data": "wiki.test.raw", "split": "test", "join": "\n\n", "window_length": 128,
        "num_windows": 256, "bos": "first", "dtype": "float32", "tokens": 32512,
        "normaliser": "token",
    }  # fmt: skip
    return fields | changes


def figure(ppl, nll, data="wiki.test.raw", **changes):
    return {
        "data": data, "ppl": ppl, "nll": nll, "standard_error": 0.0125, "tokens": 32512,
        "protocol": protocol(data=data, **changes),
    }  # fmt: skip


def perplexity_scores():
    return {
        "criterion": "perplexity",
        "granularity": "block",
        "units": [{"layer": i, "part": "block"} for i in range(6)],
        "scores": [313.25, 71.41, 85.5, 71.48, 94.5, 171.75],
        "order": ORDER,
        "protected": [0],
        "delta_nll": DELTA,
        "standard_error": ERROR,
        "settings": {"full_ppl": 70.0},
        "calibration": {"data": "c4.jsonl", "num_windows": 10, "sample": "documents"},
    }


def run_json():
    return {
        "stages": [
            {"name": "score", "status": "cached", "seconds": 32.4},
            {"name": "evaluate", "status": "done", "seconds": 200.0},
        ],
        "figures": {
            "before": {"perplexity": [figure(65.174, 4.1771), figure(55.44, 4.0153,
                                                                     window_length=512)]},
            "after": {"perplexity": [figure(75.754, 4.3275), figure(61.23, 4.1146,
                                                                    window_length=512)]},
            "curve": {
                "protocol": protocol(num_windows=64),
                "data": "wiki.test.raw",
                "series": [
                    {"criterion": "perplexity", "removed": [0, 1, 2], "ppl": [66.125, 70.25, 76.5]},
                    {"criterion": "last", "removed": [0, 1, 2], "ppl": [66.125, 91.5, 333.75]},
                    {"criterion": "random", "seeds": [0, 1, 2, 3, 4], "removed": [0, 1, 2],
                     "ppl": [66.125, 120.5, 410.0], "ppl_min": [66.125, 72.0, 88.0],
                     "ppl_max": [66.125, 320.0, 4321.0]},
                ],
            },
        },
        "removed": [{"layer": 1, "part": "block"}, {"layer": 3, "part": "block"}],
        "model": {
            "name": "tiny-llama", "sha256": "c0ffee" * 10,
            "layers": {"before": 6, "after": 4},
            "parameters": {"before": 16_200_000, "after": 13_400_000},
            "bytes": {"before": 32_400_000, "after": 26_800_000},
        },
        "sparsity": {},
    }  # fmt: skip


def write_files(folder, files):
    for name, value in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(value if isinstance(value, str) else json.dumps(value))
    return folder


@pytest.fixture
def files():
    """The files of the workdir by name, to be changed before `make` writes them."""
    return {
        "config.json": {
            "schema_version": 1,
            "name": "shortened_llama:ppl",
            "model": {"name": "tiny-llama", "sha256": "c0ffee" * 10},
            "config": {"criterion": "perplexity", "remove": 2, "seed": 1234, "model": "m/tiny"},
        },
        "run.json": run_json(),
        "recipe.json": {
            "version": 1,
            "sources": [{"name": "tiny-llama", "path": "models/tiny", "sha256": "c0ffee" * 10}],
            "steps": [{"op": "drop_blocks", "args": {"blocks": [1, 3]}}],
        },
        "scores/perplexity.json": perplexity_scores(),
        "model/config.json": {},
    }


@pytest.fixture
def make(tmp_path):
    """Writes files into a new workdir and gives its path."""
    return lambda files: write_files(tmp_path / "W", files)
