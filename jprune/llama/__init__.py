"""What a Llama is: config, parameter pytree, kernels, forward passes, stacks, virtual models."""

from jprune.llama.choose_token import Sampling
from jprune.llama.config import LlamaConfig, Rope
from jprune.llama.decode_layout import DecodeLayout, decode_layout
from jprune.llama.flops import forward_flops
from jprune.llama.forward import (
    Context,
    apply_block,
    attention_out,
    context,
    embed,
    forward,
    hidden_states,
    mlp_out,
    run_blocks,
    unembed,
)
from jprune.llama.generate import generate
from jprune.llama.kernels import Lora, Masked, fold, fold_kernels, linear
from jprune.llama.loss import next_token_nll, token_nll
from jprune.llama.masks import Mask, Masks
from jprune.llama.mixing import mix_tensors
from jprune.llama.model import (
    Attention,
    Block,
    Linear,
    Llama,
    Mlp,
    Origin,
    Run,
    anonymous,
    count_bytes,
    count_params,
)
from jprune.llama.names import from_params, leaf_name, named_params, to_params
from jprune.llama.params import ParamSpec, abstract, init, llama_spec
from jprune.llama.stack import single_blocks, stack, unstack
from jprune.llama.virtual import Plan, full_plan, run_plan, virtual
from jprune.llama.widths import Width, narrow_block, widths
from jprune.llama.zeros import mask_zeros

__all__ = [
    "Attention",
    "Block",
    "Context",
    "DecodeLayout",
    "Linear",
    "Llama",
    "LlamaConfig",
    "Lora",
    "Mask",
    "Masked",
    "Masks",
    "Mlp",
    "Origin",
    "ParamSpec",
    "Plan",
    "Rope",
    "Run",
    "Sampling",
    "Width",
    "abstract",
    "anonymous",
    "apply_block",
    "attention_out",
    "context",
    "decode_layout",
    "count_bytes",
    "count_params",
    "embed",
    "fold",
    "fold_kernels",
    "forward",
    "forward_flops",
    "from_params",
    "generate",
    "full_plan",
    "hidden_states",
    "init",
    "leaf_name",
    "linear",
    "llama_spec",
    "mix_tensors",
    "mlp_out",
    "mask_zeros",
    "named_params",
    "narrow_block",
    "next_token_nll",
    "run_blocks",
    "run_plan",
    "single_blocks",
    "stack",
    "to_params",
    "token_nll",
    "unembed",
    "unstack",
    "virtual",
    "widths",
]
