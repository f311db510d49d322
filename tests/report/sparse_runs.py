"""Workdirs of sparse runs as the JSON files that a report reads, with hand-made figures."""

from tests.report.conftest import figure, protocol

ATTENTION = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
DENSITY = [0.40, 0.35, 0.25, 0.20]


def mask_blocks():
    """Four blocks; what is achieved is off the density by (position + 1) / 10000 of a matrix."""
    blocks = []
    for layer, density in enumerate(DENSITY):
        zeros = 1 - density
        matrices = {
            name: round(zeros - (at + 1) / 10_000, 6) for at, name in enumerate((*ATTENTION, *MLP))
        }
        blocks.append(
            {"layer": layer, "density": density, "sparsity": round(zeros - 0.0004, 6),
             "matrices": matrices}
        )  # fmt: skip
    return blocks


def masks(**changes):
    return {
        "criterion": "wanda", "allocation": "dlp", "pattern": "unstructured",
        "target": 0.7, "achieved": 0.69962, "weights": 11_796_480, "zeros": 8_253_054,
        "blocks": mask_blocks(), "bytes": {"stored": 32_400_000, "compressed": 15_100_000},
    } | changes  # fmt: skip


def widths(**changes):
    blocks = [
        {"layer": 0, "density": 0.9, "sparsity": 0.08, "heads": {"before": 4, "after": 4},
         "neurons": {"before": 344, "after": 309}},
        {"layer": 1, "density": 0.7, "sparsity": 0.31, "heads": {"before": 4, "after": 3},
         "neurons": {"before": 344, "after": 240}},
    ]  # fmt: skip
    return {
        "criterion": "width", "allocation": "dlp", "target": 0.2, "achieved": 0.195,
        "weights": 1_000_000, "zeros": 195_000, "blocks": blocks,
        "bytes": {"stored": 3_600_000, "unpadded": 3_250_000}, "padded": True,
    } | changes  # fmt: skip


def curve(**changes):
    targets = [0.5, 0.6, 0.7]

    def series(allocation, *ppl):
        return {"allocation": allocation, "sparsity": targets,
                "achieved": [t - 0.0003 for t in targets], "ppl": list(ppl)}  # fmt: skip

    return {
        "protocol": protocol(num_windows=64), "data": "wiki.test.raw", "criterion": "wanda",
        "pattern": "unstructured", "dense": 55.25,
        "series": [series("uniform", 70.5, 120.25, 901.5), series("dlp", 68.25, 99.5, 410.75)],
    } | changes  # fmt: skip


def statistics(**changes):
    return {
        "mean": [0.5, 0.75, 1.25, 1.5], "median": [0.25, 0.5, 1.0, 1.125],
        "outliers": [0.875, 0.5, 0.25, 0.1255], "sizes": [2_949_120] * 4, "layers": [0, 1, 2, 3],
        "calibration": {"data": "c4.jsonl", "num_windows": 128, "sha256": "ab" * 32},
    } | changes  # fmt: skip


def allocation(**changes):
    return {
        "allocation": "dlp",
        "target": 0.7,
        "density": DENSITY,
        "layers": [0, 1, 2, 3],
    } | changes


def run_json(sparsity, before=65.174, after=180.5, **figures):
    """run.json; figures that are None are left out."""
    width = sparsity.get("criterion") == "width"
    sizes = (
        {"parameters": {"before": 2_000_000, "after": 1_805_000},
         "bytes": {"before": 4_000_000, "after": 3_610_000}} if width
        else {"parameters": {"before": 16_200_000, "after": 16_200_000},
              "bytes": {"before": 32_400_000, "after": 32_400_000}}
    )  # fmt: skip
    measured = {
        "before": {"perplexity": [figure(before, 4.1771)]},
        "after": {"perplexity": [figure(after, 5.1957)]},
    }
    return {
        "stages": [{"name": "masks", "status": "done", "seconds": 61.0}],
        "figures": measured | {name: value for name, value in figures.items() if value is not None},
        "removed": [],
        "model": {"name": "tiny-llama", "sha256": "c0ffee" * 10,
                  "layers": {"before": 4, "after": 4}} | sizes,
        "sparsity": sparsity,
    }  # fmt: skip


def sparse_files(sparsity=None, sparsity_curve=None, before=65.174, after=180.5, **config):
    """The files of a workdir by name; `config` are keys of its configuration."""
    sparsity = masks() if sparsity is None else sparsity
    keys = {"job": "sparse", "seed": 0, "model": "m/tiny"} | {
        key: sparsity[key] for key in ("criterion", "allocation", "pattern") if key in sparsity
    }
    return {
        "config.json": {"name": "sparse:dlp", "config": keys | config},
        "run.json": run_json(sparsity, before, after, sparsity_curve=sparsity_curve),
        "recipe.json": {
            "version": 1, "sources": [],
            "steps": [{"op": "sparse_weights", "args": {"blocks": ["ab" * 32] * 4}}],
        },
        "scores/statistics.json": statistics(),
        "scores/allocation.json": allocation(),
        "model/config.json": {},
    }  # fmt: skip
