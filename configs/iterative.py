"""Depth pruning in rounds: a few blocks go, what is left is retrained, and so on.

    jprune run --config=iterative:lora --config.model=FOLDER --workdir=W

The variant after the colon is the kind of retraining: lora (the default), full, last_k, distill.
`remove` is how many blocks go in a round; all other keys are those of shortened_llama, whose
defaults these are, but that each round trains for a third as long. Every round is a run of its own
in W/rounds/1, W/rounds/2, ..., and W/model is what the last one made. A run that is stopped goes on
in the round where it was.
"""

import importlib.util
import pathlib

from ml_collections import ConfigDict

VARIANTS = {"lora": "ppl_lora", "full": "ppl_cpt", "last_k": "ppl_last_k", "distill": "ppl_distill"}


def get_config(arg: str = "lora") -> ConfigDict:
    variant = arg or "lora"
    if variant not in VARIANTS:
        from jprune.core.errors import unknown

        raise unknown("variant of iterative", variant, VARIANTS)
    config = _shortened_llama(VARIANTS[variant])
    config.job = "rounds"
    config.rounds = 3
    config.remove = 2  # in every round
    config.curve_windows = 0
    config.retrain.train.steps //= 3
    if config.retrain.epochs is not None:
        config.retrain.epochs = round(config.retrain.epochs / 3, 2)
    return config


def _shortened_llama(variant: str) -> ConfigDict:
    """The config beside this one."""
    path = pathlib.Path(__file__).parent / "shortened_llama.py"
    spec = importlib.util.spec_from_file_location("jprune_config_shortened_llama", path)
    assert spec is not None and spec.loader is not None  # every .py file has both
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(variant)
