"""Merging finetunes of one model, without a search.

    jprune run --config=merge:ties --config.model=BASE --config.variants=MATH,CODE,CHAT --workdir=W

The variant after the colon is the method: linear (the default), slerp, task_arithmetic, ties, dare,
breadcrumbs, model_stock, passthrough. Base, every variant and the result are evaluated on the same
data.
"""

from ml_collections import ConfigDict, config_dict

VARIANTS = {
    "linear": {"weights": None},
    "slerp": {"t": 0.5},
    "task_arithmetic": {"factor": 0.5},
    "ties": {"density": 0.2, "factor": 1.0},
    "dare": {"density": 0.5, "factor": 1.0, "then": "task_arithmetic", "seed": 0},
    "breadcrumbs": {"density": 0.9, "gamma": 0.01, "factor": 0.5},
    "model_stock": {},
    "passthrough": {"scale": 1.0},
}


def get_config(arg: str = "linear") -> ConfigDict:
    method = arg or "linear"
    if method not in VARIANTS:
        from jprune.core.errors import unknown

        raise unknown("variant of merge", method, VARIANTS)
    config = ConfigDict()
    config.job = "merge"

    config.model = ""  # the base, or one of the merged
    config.variants = ()
    config.method = method
    config.options = ConfigDict(
        {k: config_dict.placeholder(tuple) if v is None else v for k, v in VARIANTS[method].items()}
    )
    config.include_model = config_dict.placeholder(bool)  # by default where no base is needed
    config.layers = config_dict.placeholder(str)  # everywhere, or as in 0-3,-2
    config.ends = config_dict.placeholder(str)  # merge, or base
    config.vocab = "same"  # or intersect

    config.eval = ("wikitext2",)
    config.protocol = "shortened"
    config.eval_windows = 256

    config.dtype = config_dict.placeholder(str)
    config.mesh = config_dict.placeholder(str)
    config.data_dir = config_dict.placeholder(str)
    return config
