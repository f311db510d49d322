"""Finetuning with LoRA: a small adapter learns a text, the model stays as it is.

    jprune run --config=finetune --config.model=DIR --config.data=mine.jsonl --workdir=W

The adapter is W/adapter, in the form of PEFT; the folder is a model of its own for every command
(--model=W/adapter). `--config.export_folded=true` also writes W/model, one with the adapter added
to its weights. A run that is killed goes on from its last checkpoint, to the same losses.

The defaults are those with which pruned models are recovered in Shortened LLaMA (arXiv 2402.02834):
rank 8 on all seven projections, alpha 16, dropout 0.05, a rate of 1e-4, 64 windows of 256 tokens a
step, instructions and answers of Alpaca as text. 1200 steps are about two epochs of it.
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.job = "finetune"

    # What learns what.
    config.model = config_dict.placeholder(str)
    config.data = "alpaca-cleaned"
    config.window_length = 256  # or the model's maximum, if that is smaller
    config.num_windows = config_dict.placeholder(int)  # at most so many, by default all of the data
    config.name = config_dict.placeholder(str)

    config.lora = ConfigDict()
    config.lora.rank = 8
    config.lora.alpha = 16.0
    config.lora.dropout = 0.05
    config.lora.targets = (
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    )

    config.train = ConfigDict()
    config.train.steps = 1200
    config.train.batch_size = 64
    config.train.micro_batch_size = 16
    config.train.learning_rate = 1e-4
    config.train.warmup_steps = 100
    config.train.decay_steps = config_dict.placeholder(int)  # by default all after the warm-up
    config.train.weight_decay = 0.0
    config.train.clip_norm = 1.0
    config.train.b2 = 0.999
    config.train.compute_dtype = config_dict.placeholder(str)  # float32 on CPU, else bfloat16
    config.train.remat = False  # less memory, a third more time
    config.train.checkpoint_every = 100
    config.train.validate_every = 200

    # What is measured, before and after.
    config.eval = ("wikitext2",)
    config.protocol = "shortened"
    config.eval_windows = 256
    config.validation_windows = 96

    # What is saved.
    config.adapter_dtype = "float32"
    config.export_folded = False

    config.seed = 0
    config.dtype = config_dict.placeholder(str)  # float32 on CPU, else the checkpoint's
    config.mesh = config_dict.placeholder(str)  # devices, as in "data:2,fsdp:4,tensor:1"
    config.data_dir = config_dict.placeholder(str)  # local copies of known data sources
    return config
