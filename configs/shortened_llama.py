r"""Depth pruning: remove the blocks that matter least (Shortened LLaMA, arXiv 2402.02834).

    jprune run --config=shortened_llama:ppl --config.model=FOLDER --workdir=W

The variant after the colon is the criterion: ppl (the default), taylor, magnitude, influence,
angular, greedy. Taylor and magnitude keep blocks 0-3 and the last two, the paper's "+" rule;
`--config.protect=0-3,-2,-1` does the same for the others, `--config.protect=` lifts it.

ppl_lora and taylor_lora retrain what is left with LoRA, ppl_cpt all of its weights, ppl_last_k the
last two blocks and the head, ppl_distill adapters against the whole model; with
`--config.retrain.kind=lora`, full, last_k or distill any variant does. LoRA is set as in the paper:
rank 8 on all seven projections, alpha 16, dropout 0.05, a rate of 1e-4, 64 windows of 256 tokens a
step, two epochs of Alpaca with one instruction a window. Continued pretraining reads SlimPajama in
windows of 2048 tokens, 1.3 billion tokens in 10000 steps.

The other defaults are the paper's too: six of the 32 blocks of a 7B model go (5.5B parameters are
left), BookCorpus calibrates, WikiText-2 and PTB are evaluated in windows of 128 tokens. Without
access to the hub, name files: `--config.calibration=c4.jsonl.gz --config.eval=wiki.test.raw`.

Measured with llama-16m, a model of 20 blocks that is not distributed, in float32, with
`--config.calibration=c4.jsonl.gz --config.eval=wiki.test.raw --config.remove=4` (32 windows of 128
tokens of C4 for calibration; WikiText-2 test, the first 256 windows of 128 tokens). Perplexity of
the whole model: 55.31.

    variant     removed       perplexity
    ppl         4, 5, 6, 7    136.5
    taylor      4, 5, 6, 7    136.5  ("+" rule)
    magnitude   4, 5, 6, 7    136.5  ("+" rule)
    influence   4, 5, 7, 9    134.0
    angular     4, 5, 6, 7    136.5
    greedy      4, 7, 15, 16  103.5
"""

from ml_collections import ConfigDict, config_dict

VARIANTS = {
    "ppl": "perplexity",
    "taylor": "taylor",
    "magnitude": "magnitude",
    "influence": "influence",
    "angular": "angular",
    "greedy": "greedy",
}
# What is retrained, and how; without one, nothing is.
RETRAINED = {
    "ppl_lora": ("ppl", "lora"),
    "taylor_lora": ("taylor", "lora"),
    "ppl_cpt": ("ppl", "full"),
    "ppl_last_k": ("ppl", "last_k"),
    "ppl_distill": ("ppl", "distill"),
}
VARIANTS |= {name: VARIANTS[criterion] for name, (criterion, _) in RETRAINED.items()}
PLUS = "0-3,-2,-1"
PROJECTIONS = (
    *("q_proj", "k_proj", "v_proj", "o_proj"),
    *("gate_proj", "up_proj", "down_proj"),
)
OPTIONS = {
    "taylor": {"power": 1.0, "reduce": "abs_of_sum"},
    "magnitude": {"power": 1.0},
}


def get_config(arg: str = "ppl") -> ConfigDict:
    variant = arg or "ppl"
    if variant not in VARIANTS:
        from jprune.core.errors import unknown

        raise unknown("variant of shortened_llama", variant, VARIANTS)
    criterion, kind = RETRAINED.get(variant, (variant, "none"))
    config = ConfigDict()
    config.job = "depth"

    # What is pruned, and by what.
    config.model = "huggyllama/llama-7b"
    config.criterion = VARIANTS[variant]
    config.options = ConfigDict(OPTIONS.get(criterion, {}))
    config.compare = ()  # further criteria to show in the curve
    config.remove = 6
    config.granularity = "block"  # attention, mlp, or sublayer: both, ranked together
    config.protect = PLUS if criterion in ("taylor", "magnitude") else ""

    # What the criterion reads.
    config.calibration = "bookcorpus"
    config.num_windows = 32
    config.window_length = 128
    config.sample = "documents"
    config.seed = 0

    # What is measured.
    config.eval = ("wikitext2", "ptb")
    config.protocol = "shortened"
    config.eval_windows = 256  # of each; null for all
    config.curve_windows = 64  # of the first; 0 for no curve
    config.curve_remove = config_dict.placeholder(int)  # by default remove + 2
    config.curve_seeds = 3

    whole = kind == "full"  # continued pretraining
    # How what is left is trained again.
    config.retrain = ConfigDict()
    config.retrain.kind = kind  # none, lora, full, last_k, distill
    config.retrain.data = "slimpajama" if whole else "alpaca-cleaned"
    config.retrain.validation = config_dict.placeholder(str)  # by default the first of eval
    config.retrain.window_length = (
        2048 if whole else 256
    )  # or the model's maximum, if that is smaller
    config.retrain.num_windows = config_dict.placeholder(int)  # by default all of the data
    config.retrain.validation_windows = 96
    config.retrain.loss = "all"  # or answer: of instructions only that
    config.retrain.lora = ConfigDict(
        {"rank": 8, "alpha": 16.0, "dropout": 0.05, "targets": PROJECTIONS}
    )
    config.retrain.epochs = config_dict.placeholder(float) if whole else 2.0  # null: train.steps
    config.retrain.train = ConfigDict()
    config.retrain.train.steps = 10000 if whole else 1600
    config.retrain.train.batch_size = 64
    config.retrain.train.micro_batch_size = 2 if whole else 16
    config.retrain.train.learning_rate = 1e-4
    config.retrain.train.warmup_steps = 100
    config.retrain.train.decay_steps = config_dict.placeholder(int)  # by default all after those
    config.retrain.train.weight_decay = 0.1 if whole else 0.0
    config.retrain.train.clip_norm = 1.0
    config.retrain.train.b2 = 0.95 if whole else 0.999
    config.retrain.train.compute_dtype = config_dict.placeholder(str)  # float32 on CPU, else bf16
    config.retrain.train.remat = whole  # less memory, a third more time
    config.retrain.train.checkpoint_every = 100
    config.retrain.train.validate_every = 200
    config.retrain.last_k = 2
    config.retrain.parameters = "lora"  # what trains with distill, or full
    config.retrain.temperature = 2.0
    config.retrain.alpha = 0.5  # weight of the teacher, with distill
    config.retrain.hidden_weight = 0.0

    config.dtype = config_dict.placeholder(str)  # float32 on CPU, else the checkpoint's
    config.mesh = config_dict.placeholder(str)  # devices, as in "data:2,fsdp:4,tensor:1"
    config.data_dir = config_dict.placeholder(str)  # local copies of known data sources
    return config
