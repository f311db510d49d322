"""Layerwise sparsity on the bundled model, with all four allocations compared.

    jprune run --config=demo_sparse:wanda --workdir=W

The variant after the colon is the criterion: wanda (the default), sparsegpt, magnitude, width.
Calibration windows come from the files that the model was trained on, perplexities from those held
out, of whatever Python runs this.

With the standard library of Python 3.11, in float32 on a CPU, `--config.seed=0`, 1 and 2:
perplexity of the whole model 19.52 (64 windows of 256 tokens); mean and standard deviation over the
seeds:

    criterion  sparsity  dlp           owl           linear_depth  uniform
    magnitude  50%       24.49 ± 0.02  22.12 ± 0.04  22.48         20.97
    magnitude  70%       71.28 ± 0.74  41.38 ± 0.84  42.86         29.89
    wanda      50%       24.35 ± 0.11  22.00 ± 0.02  22.57 ± 0.03  21.04 ± 0.03
    wanda      70%       75.72 ± 2.40  41.03 ± 0.64  43.48 ± 0.62  30.86 ± 0.12
    sparsegpt  50%       23.37 ± 0.18  21.67 ± 0.12  21.55 ± 0.04  20.88 ± 0.06
    sparsegpt  70%       62.46 ± 1.04  36.65 ± 0.49  32.13 ± 0.16  28.51 ± 0.31

Uniform rates are best here; on llama-16m (see dlp) DLP and the line over the depth are.
"""

import pathlib

from ml_collections import ConfigDict, config_dict

import jprune

VARIANTS = ("wanda", "sparsegpt", "magnitude", "width")


def get_config(arg: str = "wanda") -> ConfigDict:
    criterion = arg or "wanda"
    if criterion not in VARIANTS:
        from jprune.core.errors import unknown

        raise unknown("variant of demo_sparse", criterion, VARIANTS)
    config = ConfigDict()
    config.job = "sparse"

    config.model = str(pathlib.Path(jprune.__path__[0]) / "assets" / "demo-llama")
    config.criterion = criterion
    width = {"uniform": False, "multiple": 1, "parts": "attention,mlp", "statistics": "pruned"}
    config.options = ConfigDict(width if criterion == "width" else {})
    config.allocation = "dlp"
    config.allocation_options = ConfigDict(
        {
            "dlp": {"alpha": 0.15, "reduce": "mean"},
            "owl": {"lam": 0.08},
            "linear_depth": {"alpha": 0.15},
        }
    )
    config.outlier_factor = 5.0
    config.sparsity = 0.2 if criterion == "width" else 0.5
    config.pattern = "unstructured"
    config.compare = ("owl", "linear_depth", "uniform")

    config.calibration = "stdlib"
    config.num_windows = 32
    config.window_length = 256
    config.sample = "documents"
    config.seed = 0
    config.offload = "none"

    config.eval = ("stdlib",)
    config.protocol = "gptq"
    config.eval_windows = 128
    config.curve_windows = 64
    config.curve_sparsities = (0.1, 0.2, 0.3) if criterion == "width" else (0.5, 0.6, 0.7, 0.8)

    config.dtype = config_dict.placeholder(str)
    config.mesh = config_dict.placeholder(str)
    config.data_dir = config_dict.placeholder(str)
    return config
