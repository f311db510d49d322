"""Layerwise sparsity: masks, or widths, at rates that differ per block (DLP, arXiv 2505.23807).

    jprune run --config=dlp:wanda_dlp --config.model=FOLDER --workdir=W

The variant after the colon is criterion_allocation: wanda (the default), sparsegpt, magnitude or
width, and dlp (the default), owl, linear_depth or uniform. The criterion width removes whole heads
and neurons instead of single weights. `wanda_dlp_lora` and `sparsegpt_dlp_lora` train adapters on
what is left, under the masks: what is pruned stays zero. So does any variant with
`--config.retrain.kind=lora`.

The defaults are the paper's: 70% of the weights go, 128 windows of 2048 tokens of C4 (or as long as
the model reads) calibrate, the test split of WikiText-2 is evaluated in windows of that length. The
curve compares all four allocations at 50, 60, 70 and 80%: sixteen more pruning passes, which
`--config.curve_windows=0` leaves out. Without access to the hub, name files:
`--config.calibration=c4.jsonl.gz --config.eval=wiki.test.raw`.

Measured with llama-16m, a model of 20 blocks that is not distributed, in float32 on one H100, with
`--config.calibration=c4.jsonl.gz --config.eval=wiki.test.raw --config.curve_windows=2000` and
`--config.seed=0`, 1 and 2 (128 windows of 512 tokens of C4; WikiText-2 test, 763 windows of 512;
perplexity of the whole model: 64.42). Mean and standard deviation over the three seeds:

    criterion  sparsity  dlp           owl          linear_depth  uniform
    magnitude  50%       119.0 ± 0.1   144.3 ± 0.3  115.7         146.7
    magnitude  60%       216.0 ± 0.1   317.4 ± 1.6  203.3         355.8
    magnitude  70%       567.1 ± 1.2   1034 ± 13    506.0         1786
    magnitude  80%       1342 ± 4      5424 ± 97    1143          9807
    wanda      50%       112.5 ± 0.7   127.2 ± 0.7  110.5 ± 0.0   137.4 ± 0.6
    wanda      60%       200.8 ± 0.8   272.3 ± 3.1  195.5 ± 2.0   322.1 ± 0.9
    wanda      70%       452.0 ± 15.6  910.6 ± 28   436.0 ± 2.4   1523 ± 50
    wanda      80%       1408 ± 109    6129 ± 390   1457 ± 105    13380 ± 1498
    sparsegpt  50%       93.1 ± 0.8    106.7 ± 0.8  91.9 ± 0.6    112.5 ± 1.2
    sparsegpt  60%       137.1 ± 0.5   187.5 ± 1.3  131.4 ± 2.4   212.2 ± 1.9
    sparsegpt  70%       241.2 ± 4.4   433.8 ± 18   230.8 ± 6.7   703.8 ± 34
    sparsegpt  80%       603.5 ± 7.3   1524 ± 230   631.3 ± 46    3735 ± 214

On this model DLP beats OWL and uniform rates everywhere. The line over the depth is a little better
still, but for 80% with Wanda and SparseGPT, where they are within each other's spread. On the
bundled model it is not so: see demo_sparse.
"""

from ml_collections import ConfigDict, config_dict

CRITERIA = ("wanda", "sparsegpt", "magnitude", "width")
ALLOCATIONS = ("dlp", "owl", "linear_depth", "uniform")
VARIANTS = {
    f"{criterion}_{allocation}": (criterion, allocation)
    for criterion in CRITERIA
    for allocation in ALLOCATIONS
}
# Trained again, with LoRA on the sparse model.
RETRAINED = {f"{criterion}_dlp_lora": f"{criterion}_dlp" for criterion in ("wanda", "sparsegpt")}
VARIANTS |= {name: VARIANTS[pruned] for name, pruned in RETRAINED.items()}
PROJECTIONS = (
    *("q_proj", "k_proj", "v_proj", "o_proj"),
    *("gate_proj", "up_proj", "down_proj"),
)
WIDTH_OPTIONS = {"uniform": False, "multiple": 1, "parts": "attention,mlp", "statistics": "pruned"}


def get_config(arg: str = "wanda_dlp") -> ConfigDict:
    variant = arg or "wanda_dlp"
    if variant not in VARIANTS:
        from jprune.core.errors import unknown

        raise unknown("variant of dlp", variant, VARIANTS)
    criterion, allocation = VARIANTS[variant]
    config = ConfigDict()
    config.job = "sparse"

    # What is pruned, by what, and how it is spread over the blocks.
    config.model = "huggyllama/llama-7b"
    config.criterion = criterion
    config.options = ConfigDict(WIDTH_OPTIONS if criterion == "width" else {})
    config.allocation = allocation
    config.allocation_options = ConfigDict(
        {
            "dlp": {"alpha": 0.15, "reduce": "mean"},
            "owl": {"lam": 0.08},
            "linear_depth": {"alpha": 0.15},
        }
    )
    config.outlier_factor = 5.0
    # By default 0.7, or what an N:M pattern gives; heads and neurons are missed sooner.
    config.sparsity = 0.2 if criterion == "width" else config_dict.placeholder(float)
    config.pattern = "unstructured"  # or N:M, as in 2:4
    config.compare = tuple(name for name in ALLOCATIONS if name != allocation)

    # What statistics and criterion read.
    config.calibration = "c4"
    config.num_windows = 128
    config.window_length = config_dict.placeholder(int)  # 2048, or the model's maximum if less
    config.sample = "documents"
    config.seed = 0
    config.offload = "none"  # hidden, weights or all: what is kept on the host

    # What is measured.
    config.eval = ("wikitext2",)
    config.protocol = "gptq"
    config.eval_windows = config_dict.placeholder(int)
    config.curve_windows = 32  # of the first; 0 for no curve
    config.curve_sparsities = (0.1, 0.2, 0.3) if criterion == "width" else (0.5, 0.6, 0.7, 0.8)

    # How what is left is trained again.
    config.retrain = ConfigDict()
    config.retrain.kind = "lora" if variant in RETRAINED else "none"  # or full, last_k, distill
    config.retrain.data = "alpaca-cleaned"
    config.retrain.validation = config_dict.placeholder(str)  # by default the first of eval
    config.retrain.window_length = 256  # or the model's maximum, if that is smaller
    config.retrain.num_windows = config_dict.placeholder(int)  # by default all of the data
    config.retrain.validation_windows = 96
    config.retrain.loss = "all"  # or answer: of instructions only that
    config.retrain.lora = ConfigDict(
        {"rank": 8, "alpha": 16.0, "dropout": 0.05, "targets": PROJECTIONS}
    )
    config.retrain.epochs = 2.0  # or null, for train.steps
    config.retrain.train = ConfigDict()
    config.retrain.train.steps = 1600
    config.retrain.train.batch_size = 64
    config.retrain.train.micro_batch_size = 16
    config.retrain.train.learning_rate = 1e-4
    config.retrain.train.warmup_steps = 100
    config.retrain.train.decay_steps = config_dict.placeholder(int)  # by default all after those
    config.retrain.train.weight_decay = 0.0
    config.retrain.train.clip_norm = 1.0
    config.retrain.train.b2 = 0.999
    config.retrain.train.compute_dtype = config_dict.placeholder(str)  # float32 on CPU, else bf16
    config.retrain.train.remat = False  # less memory, a third more time
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
