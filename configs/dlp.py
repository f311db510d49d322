r"""Layerwise sparsity: masks, or widths, at rates that differ per block (DLP, arXiv 2505.23807).

jprune run --config=dlp:wanda_dlp --config.model=FOLDER --workdir=W
"""

from ml_collections import ConfigDict, config_dict

CRITERIA = ("wanda", "sparsegpt", "magnitude", "width")
ALLOCATIONS = ("dlp", "owl", "linear_depth", "uniform")
VARIANTS = {
    f"{criterion}_{allocation}": (criterion, allocation)
    for criterion in CRITERIA
    for allocation in ALLOCATIONS
}
OPTIONS = {
    "dlp": {"alpha": 0.15, "reduce": "mean"},
    "owl": {"lam": 0.08},
    "linear_depth": {"alpha": 0.15},
}
WIDTH_OPTIONS = {"uniform": False, "multiple": 1}


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
    config.allocation_options = ConfigDict(OPTIONS.get(allocation, {}))
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

    config.dtype = config_dict.placeholder(str)  # float32 on CPU, else the checkpoint's
    config.mesh = config_dict.placeholder(str)  # devices, as in "data:2,fsdp:4,tensor:1"
    config.data_dir = config_dict.placeholder(str)  # local copies of known data sources
    return config
