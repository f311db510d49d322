"""Layerwise sparsity on the bundled model, with all four allocations compared.

    jprune run --config=demo_sparse:wanda --workdir=W

The variant after the colon is the criterion: wanda (the default), sparsegpt, magnitude, width.
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
    config.options = ConfigDict({"uniform": False, "multiple": 1} if criterion == "width" else {})
    config.allocation = "dlp"
    config.allocation_options = ConfigDict({"alpha": 0.15, "reduce": "mean"})
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
