"""Three adapters of the bundled model: prose, code and tables of Python's standard library.

    jprune run --config=demo_finetune:prose --workdir=W

The variant after the colon is what is learnt: prose (the default), code, tables.
"""

import pathlib

from ml_collections import ConfigDict, config_dict

import jprune

VARIANTS = ("prose", "code", "tables")


def get_config(arg: str = "prose") -> ConfigDict:
    variant = arg or "prose"
    if variant not in VARIANTS:
        from jprune.core.errors import unknown

        raise unknown("variant of demo_finetune", variant, VARIANTS)
    config = ConfigDict()
    config.job = "finetune"

    config.model = str(pathlib.Path(jprune.__path__[0]) / "assets" / "demo-llama")
    config.data = f"stdlib_{variant}"
    config.window_length = 256
    config.name = f"demo-llama-{variant}"

    config.lora = ConfigDict()
    config.lora.rank = 3
    config.lora.alpha = 6.0
    config.lora.dropout = 0.0
    config.lora.targets = (
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    )

    config.train = ConfigDict()
    config.train.steps = 150
    config.train.batch_size = 8
    config.train.micro_batch_size = 4  # quickest on a few CPU cores
    config.train.learning_rate = 3e-3
    config.train.warmup_steps = 10
    config.train.weight_decay = 0.0
    config.train.b2 = 0.99
    config.train.checkpoint_every = 50
    config.train.validate_every = 100

    config.eval = (
        f"stdlib_{variant}",
        *(f"stdlib_{other}" for other in VARIANTS if other != variant),
    )
    config.protocol = "shortened"
    config.eval_windows = 256
    config.validation_windows = 32

    config.adapter_dtype = "bfloat16"
    config.export_folded = False
    config.seed = 0
    config.dtype = config_dict.placeholder(str)
    config.mesh = config_dict.placeholder(str)
    config.data_dir = config_dict.placeholder(str)
    return config
