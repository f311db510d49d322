"""Three finetunes of the bundled model cut and stitched into a smaller one.

    jprune run --config=demo_stitch --workdir=W

`jprune demo` ends with it. The finetunes have read the prose, the code and the tables of Python's
standard library (see demo_finetune). Three of the 16 blocks go; the search is on one half of what
is held out of each part, the figures on the other.

With the standard library of Python 3.11, in float32 on a CPU; mean NLL of the three parts, 64
windows of 128 tokens each:

    model                               blocks  mean NLL
    base                                16      3.197
    best finetune (tables)              16      2.523
    best depth pruning (of tables)      13      2.611
    depth pruning of the best merge     13      2.598
    stitched, 160 trials                13      2.632

The three smaller ones are within each other's noise (0.04): the held-out halves are a few files
each, and what is best on the one is not best on the other. On more data stitching is clearly
better, see gptailor. The merge is compared with `--config.compare=depth,merge`.
"""

import pathlib

from ml_collections import ConfigDict, config_dict

import jprune

PARTS = ("prose", "code", "tables")


def get_config() -> ConfigDict:
    assets = pathlib.Path(jprune.__path__[0]) / "assets"
    config = ConfigDict()
    config.job = "search"

    config.model = str(assets / "demo-llama")
    config.variants = tuple(str(assets / f"demo-llama-{part}") for part in PARTS)
    config.remove = 3
    config.granularity = "block"
    config.protect = ""

    config.objectives = tuple(f"stdlib_{part}" for part in PARTS)
    config.search_windows = 16

    config.sampler = "evolution"
    config.trials = 160
    config.rungs = (0.25, 1.0)
    config.eta = 2.0
    config.population = 16
    config.storage = config_dict.placeholder(str)
    config.seed = 0

    config.eval = ()
    config.compare = ("depth",)
    config.protocol = "shortened"
    config.eval_windows = 64

    config.dtype = config_dict.placeholder(str)
    config.mesh = config_dict.placeholder(str)
    config.data_dir = config_dict.placeholder(str)
    return config
