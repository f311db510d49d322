"""The bundled model: a small Llama trained on the sources of Python's standard library.

    jprune run --config=demo_pretrain --workdir=W

Trains a byte-level BPE tokenizer and a Llama of 16 blocks (3.4M parameters, 6.9 MB in bfloat16) on
the standard library of the running interpreter, without its tests and tables; about 5% of the
files, chosen by a hash of their names, are held out.

The bundled `demo-llama` was trained so with Python 3.11.7 in float32: 1450 steps, 5.9M tokens. It
was trained in two parts, the second from the checkpoint of the first: the last 449 steps took 11
minutes on two busy CPU cores. The mean loss of the last 100 steps is 2.669, the validation loss
3.037 (windows of 256), the perplexity on held-out files 23.91 (windows of 128).
Another version of Python has other sources, and gives a model of its own.
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.job = "pretrain"
    config.name = "demo-llama"

    config.data = "stdlib"
    config.vocab_size = 2048

    config.architecture = ConfigDict()
    config.architecture.num_hidden_layers = 16
    config.architecture.hidden_size = 128
    config.architecture.intermediate_size = 344
    config.architecture.num_attention_heads = 4
    config.architecture.num_key_value_heads = 2
    config.architecture.max_position_embeddings = 256

    config.train = ConfigDict()
    config.train.steps = 1450
    config.train.batch_size = 16  # windows of 256 tokens
    config.train.micro_batch_size = 4  # quickest on a few CPU cores
    config.train.learning_rate = 2e-3
    config.train.warmup_steps = 200
    config.train.decay_steps = 450
    config.train.weight_decay = 0.1
    config.train.clip_norm = 1.0
    config.train.checkpoint_every = 100
    config.train.validate_every = 250

    config.eval = ("stdlib",)
    config.protocol = "shortened"
    config.eval_windows = 256
    config.validation_windows = 96

    config.dtype = "bfloat16"
    config.seed = 0
    config.data_dir = config_dict.placeholder(str)
    return config
