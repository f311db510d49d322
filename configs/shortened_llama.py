r"""Depth pruning: remove the blocks that matter least (Shortened LLaMA, arXiv 2402.02834).

    jprune run --config=shortened_llama:ppl --config.model=FOLDER --workdir=W

The variant after the colon is the criterion: ppl (the default), taylor, magnitude, influence,
angular, greedy. Taylor and magnitude keep blocks 0-3 and the last two, the paper's "+" rule;
`--config.protect=0-3,-2,-1` does the same for the others, `--config.protect=` lifts it.

The defaults are the paper's: six of the 32 blocks of a 7B model go (5.5B parameters are left),
BookCorpus calibrates, WikiText-2 and PTB are evaluated in windows of 128 tokens. Without access to
the hub, name files: `--config.calibration=c4.jsonl.gz --config.eval=wiki.test.raw`.

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
PLUS = "0-3,-2,-1"
OPTIONS = {
    "taylor": {"power": 1.0, "reduce": "abs_of_sum"},
    "magnitude": {"power": 1.0},
}


def get_config(arg: str = "ppl") -> ConfigDict:
    variant = arg or "ppl"
    if variant not in VARIANTS:
        from jprune.core.errors import unknown

        raise unknown("variant of shortened_llama", variant, VARIANTS)
    config = ConfigDict()
    config.job = "depth"

    # What is pruned, and by what.
    config.model = "huggyllama/llama-7b"
    config.criterion = VARIANTS[variant]
    config.options = ConfigDict(OPTIONS.get(variant, {}))
    config.compare = ()  # further criteria to show in the curve
    config.remove = 6
    config.granularity = "block"  # attention, mlp, or sublayer: both, ranked together
    config.protect = PLUS if variant in ("taylor", "magnitude") else ""

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

    config.dtype = config_dict.placeholder(str)  # float32 on CPU, else the checkpoint's
    config.mesh = config_dict.placeholder(str)  # devices, as in "data:2,fsdp:4,tensor:1"
    config.data_dir = config_dict.placeholder(str)  # local copies of known data sources
    return config
