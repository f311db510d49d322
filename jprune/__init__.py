"""jprune: depth pruning, sparsity and layer merging of Llama-family language models in JAX.

import jprune

checkpoint = jprune.load_checkpoint("path/to/llama")
scores = jprune.score(checkpoint.llama, "perplexity", ids)
smaller = jprune.drop_units(jprune.select(scores, 4))(checkpoint.llama)
jprune.save("pruned", smaller, tokenizer=checkpoint.tokenizer)
"""

from jprune.checkpoints import (
    Checkpoint,
    export_huggingface,
    load,
    load_checkpoint,
    load_tokenizer,
    save,
)
from jprune.core.errors import InputError, Interrupted, JpruneError
from jprune.core.mesh import use_mesh
from jprune.core.version import __version__
from jprune.data import calibration_windows, evaluation_windows
from jprune.evaluate import perplexity
from jprune.llama import (
    Block,
    Llama,
    LlamaConfig,
    Lora,
    Masked,
    Origin,
    Plan,
    Rope,
    abstract,
    count_bytes,
    count_params,
    forward,
    from_params,
    init,
    named_params,
    next_token_nll,
    run_plan,
    stack,
    to_params,
    unstack,
    virtual,
)
from jprune.scores import Scores, Unit, score, select, units
from jprune.transforms import (
    Recipe,
    Transform,
    chain,
    drop_blocks,
    drop_sublayers,
    drop_units,
    removed_units,
    transform,
)

__all__ = [
    "Block",
    "Checkpoint",
    "InputError",
    "Interrupted",
    "JpruneError",
    "Llama",
    "LlamaConfig",
    "Lora",
    "Masked",
    "Origin",
    "Plan",
    "Recipe",
    "Rope",
    "Scores",
    "Transform",
    "Unit",
    "__version__",
    "abstract",
    "calibration_windows",
    "chain",
    "count_bytes",
    "count_params",
    "drop_blocks",
    "drop_sublayers",
    "drop_units",
    "evaluation_windows",
    "export_huggingface",
    "forward",
    "from_params",
    "init",
    "load",
    "load_checkpoint",
    "load_tokenizer",
    "named_params",
    "next_token_nll",
    "perplexity",
    "removed_units",
    "run_plan",
    "save",
    "score",
    "select",
    "stack",
    "to_params",
    "transform",
    "units",
    "unstack",
    "use_mesh",
    "virtual",
]
