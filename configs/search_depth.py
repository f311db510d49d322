"""Depth pruning by a search: which blocks (or sublayers) go together, on one model.

    jprune run --config=search_depth --config.model=FOLDER --config.objectives=c4 --workdir=W

Scores take units one by one; a search evaluates whole sets of them. WikiText-2 is reported; with
`--config.eval=` it is one half of the documents of each objective, and the other is searched on.
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.job = "search"

    config.model = "huggyllama/llama-7b"
    config.variants = ()
    config.remove = 6
    config.granularity = "block"  # attention, mlp, or sublayer
    config.protect = ""

    config.objectives = ("c4",)
    config.search_windows = 64

    config.sampler = "evolution"  # or tpe, nsga2, random, greedy
    config.trials = 200
    config.rungs = (0.125, 0.5, 1.0)
    config.eta = 2.0
    config.population = 16
    config.storage = config_dict.placeholder(str)
    config.seed = 0

    config.eval = ("wikitext2",)
    config.compare = ("depth",)
    config.protocol = "shortened"
    config.eval_windows = 256

    config.dtype = config_dict.placeholder(str)
    config.mesh = config_dict.placeholder(str)
    config.data_dir = config_dict.placeholder(str)
    return config
