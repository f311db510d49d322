r"""Cutting and stitching finetunes of one model into a smaller one (GPTailor, arXiv 2506.20480).

    jprune run --config=gptailor --config.model=BASE --config.variants=MATH,CODE,CHAT \
        --config.objectives=gsm8k.jsonl::question+answer,mbpp.jsonl::code,chat.jsonl --workdir=W

A search decides which layers go, and which of the variants each of the others is taken from or
merged of, such that the NLL of all objectives rises least. Each objective is divided: half of its
documents are searched on, half reported; or name report data with `--config.eval`. The result is
set beside the base, every variant, depth pruning of each by perplexity, a search that only removes,
with as many trials, and depth pruning of the best plain merge
(`--config.compare=depth,removal,merge`; the second takes as long as the search for every model).
W/report.html has all of them in a table, says in words which the result beats, and shows which
model each of its layers comes from.

Measured with llama-16m (20 blocks, five removed) and three finetunes of it, models that are not
distributed, in float32 on one H100 with the objectives above (GSM8K, MBPP, instructions),
`--config.remove=5 --config.search_windows=32 --config.eval_windows=64 --config.seed=0`. NLL on the
halves that were not searched on, windows of 512 tokens, and the mean of the three:

    model                                    math   code   chat   mean
    base, 20 blocks                          4.179  5.387  3.827  4.464
    best variant by the mean (chat), 20      4.431  4.833  3.319  4.194
    best depth pruning (of code), 15         4.903  4.541  5.037  4.827
    best search that removes (of code), 15   4.894  4.470  5.021  4.795
    stitched by tpe, 300 trials, 15          3.888  5.567  4.329  4.595
    stitched by evolution, 300 trials, 15    3.454  5.185  4.127  4.255
    the same, seed 1, 600 trials             3.498  5.038  4.077  4.204

300 trials took 49 s by evolution, which runs fewer of them on all windows, and 120 s by tpe.

The same on two CPU cores with `--config.protocol=shortened --config.search_windows=16` (windows of
128 tokens), seeds 0, 1 and 2, mean NLL of the three on report halves, mean and standard deviation;
a search took 140 to 160 s, one with much other work beside it 410 s:

    base, 20 blocks                          4.636
    best variant by the mean (chat), 20      4.230
    best depth pruning (of chat), 15         5.011 ± 0.052
    best search that removes (of chat), 15   4.912 (seed 0)
    depth pruning of the best merge, 15      4.448 and 4.573 (seeds 0 and 1; linear)
    stitched by evolution, 300 trials, 15    4.364 ± 0.037

A search that is stopped goes on where it was; `--config.storage=postgresql://...` lets several
machines work on one, each with a workdir of its own.
"""

from ml_collections import ConfigDict, config_dict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.job = "search"

    # What is searched.
    config.model = "meta-llama/Llama-2-7b-hf"
    config.variants = ()
    config.remove = 9  # of 32 layers
    config.granularity = "block"
    config.protect = ""

    # What for.
    config.objectives = ()
    config.search_windows = 64  # of each; null for all

    # How.
    config.sampler = "evolution"  # or tpe, nsga2, random
    config.trials = 300
    config.rungs = (0.125, 0.5, 1.0)
    config.eta = 2.0
    config.population = 16
    config.storage = config_dict.placeholder(str)
    config.seed = 0

    # What is measured, and compared.
    config.eval = ()  # by default the other halves of the objectives
    config.compare = ("depth",)  # and removal, merge
    config.protocol = "gptq"
    config.eval_windows = 256

    config.dtype = config_dict.placeholder(str)
    config.mesh = config_dict.placeholder(str)
    config.data_dir = config_dict.placeholder(str)
    return config
