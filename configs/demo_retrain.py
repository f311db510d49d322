"""Recovery of the bundled model after it has lost four of its blocks, by four kinds of retraining.

    jprune run --config=demo_retrain:lora --workdir=W

The variant after the colon is the kind: lora (the default), last_k (the last two blocks and the
head), cpt (all weights), distill (adapters, against the whole model). All see the same windows in
the same order, from the files that the model was trained on; perplexities are of files held out,
of whatever Python runs this.

With the standard library of Python 3.11, in float32 on two CPU cores, 60 steps of 16 windows of 256
tokens, 0.24M tokens; perplexity of the whole model 23.91 on stdlib and 39.37 on stdlib_prose,
without the blocks 26.56 and 43.72. Recovered is the share of the rise in NLL that came back:

    variant  stdlib  recovered  stdlib_prose  recovered
    lora     25.08   54.4%      41.24         55.6%
    last_k   25.65   33.1%      42.50         26.9%
    cpt      24.86   62.9%      41.59         47.5%
    distill  24.79   65.6%      40.78         66.3%

These are single runs, with seed 0.
"""

import pathlib

from ml_collections import ConfigDict, config_dict

import jprune

VARIANTS = {"lora": "lora", "last_k": "last_k", "cpt": "full", "distill": "distill"}
# Of the adapters the rate is higher: they start from nothing.
RATES = {"lora": 3e-3, "last_k": 1e-3, "cpt": 1e-3, "distill": 3e-3}


def get_config(arg: str = "lora") -> ConfigDict:
    variant = arg or "lora"
    if variant not in VARIANTS:
        from jprune.core.errors import unknown

        raise unknown("variant of demo_retrain", variant, VARIANTS)
    config = ConfigDict()
    config.job = "depth"

    config.model = str(pathlib.Path(jprune.__path__[0]) / "assets" / "demo-llama")
    config.criterion = "perplexity"
    config.options = ConfigDict()
    config.compare = ()
    config.remove = 4
    config.granularity = "block"
    config.protect = ""

    config.calibration = "stdlib"
    config.num_windows = 32
    config.window_length = 128
    config.sample = "documents"
    config.seed = 0

    config.retrain = ConfigDict()
    config.retrain.kind = VARIANTS[variant]
    config.retrain.data = "stdlib"
    config.retrain.validation = config_dict.placeholder(str)
    config.retrain.window_length = 256
    config.retrain.num_windows = config_dict.placeholder(int)
    config.retrain.validation_windows = 32
    config.retrain.loss = "all"
    config.retrain.lora = ConfigDict()
    config.retrain.lora.rank = 8
    config.retrain.lora.alpha = 16.0
    config.retrain.lora.dropout = 0.0
    config.retrain.lora.targets = (
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    )
    config.retrain.epochs = config_dict.placeholder(float)
    config.retrain.train = ConfigDict()
    config.retrain.train.steps = 60
    config.retrain.train.batch_size = 16  # windows of 256 tokens
    config.retrain.train.micro_batch_size = 4  # quickest on a few CPU cores
    config.retrain.train.learning_rate = RATES[variant]
    config.retrain.train.warmup_steps = 6
    config.retrain.train.weight_decay = 0.0
    config.retrain.train.b2 = 0.99
    config.retrain.train.checkpoint_every = 20
    config.retrain.train.validate_every = 20
    config.retrain.last_k = 2
    config.retrain.parameters = "lora"
    config.retrain.temperature = 2.0
    config.retrain.alpha = 0.5
    config.retrain.hidden_weight = 0.0

    config.eval = ("stdlib", "stdlib_prose")
    config.protocol = "shortened"
    config.eval_windows = 256
    config.curve_windows = 0
    config.curve_remove = config_dict.placeholder(int)
    config.curve_seeds = 0

    config.dtype = config_dict.placeholder(str)
    config.mesh = config_dict.placeholder(str)
    config.data_dir = config_dict.placeholder(str)
    return config
