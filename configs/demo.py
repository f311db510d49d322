"""Depth pruning on the bundled model, with every criterion compared.

    jprune run --config=demo --workdir=W

`jprune demo` is the same. The model has read the standard library of Python (see demo_pretrain);
calibration windows come from the files that it was trained on, perplexities from those held out,
of whatever Python runs this.

With the standard library of Python 3.11, in float32 on a CPU: perplexity 23.91 of the whole model
and 24.82 without blocks 5 and 6 (256 windows of 128 tokens). Over the first 64 of these windows, by
the number of blocks removed, where random is the mean of five seeds:

    criterion   0     1     2     3     4     5     6
    perplexity  23.1  23.3  23.8  24.5  25.7  28.1  34.6
    greedy      23.1  23.3  24.0  24.7  25.7  27.2  29.9
    taylor      23.1  23.3  23.8  27.1  27.4  31.4  34.6
    magnitude   23.1  23.5  23.8  27.1  30.7  31.4  34.6
    influence   23.1  23.3  23.8  24.5  25.9  27.2  31.7
    angular     23.1  23.3  24.0  24.8  27.0  31.4  34.6
    last        23.1  25.5  28.9  38.6  44.5  52.3  59.0
    random      23.1  320   278   317   335   909   700
"""

import pathlib

from ml_collections import ConfigDict, config_dict

import jprune


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.job = "depth"

    config.model = str(pathlib.Path(jprune.__path__[0]) / "assets" / "demo-llama")
    config.criterion = "perplexity"
    config.options = ConfigDict()
    config.compare = ("greedy", "taylor", "magnitude", "influence", "angular")
    config.remove = 2
    config.granularity = "block"
    config.protect = ""

    config.calibration = "stdlib"
    config.num_windows = 32
    config.window_length = 128
    config.sample = "documents"
    config.seed = 0

    config.eval = ("stdlib",)
    config.protocol = "shortened"
    config.eval_windows = 256
    config.curve_windows = 64
    config.curve_remove = 6
    config.curve_seeds = 5

    config.dtype = config_dict.placeholder(str)
    config.mesh = config_dict.placeholder(str)
    config.data_dir = config_dict.placeholder(str)
    return config
