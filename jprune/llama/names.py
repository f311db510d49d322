"""Parameters by name: `layers.3.self_attn.q_proj.kernel`, as Hugging Face calls them.

`to_params` and `from_params` are the bridge to Linen and NNX models; path patterns anywhere in
jprune match the same names.
"""

import jax

from jprune.llama.config import LlamaConfig
from jprune.llama.kernels import Leaf, fold_kernels
from jprune.llama.model import Attention, Block, Linear, Llama, Mlp, Origin
from jprune.llama.stack import unstack

_ATTRIBUTES = {
    "embed": "embed_tokens.embedding",
    "blocks": "layers",
    "final_norm": "norm.weight",
    "attn_norm": "input_layernorm.weight",
    "attn": "self_attn",
    "mlp_norm": "post_attention_layernorm.weight",
    "q_norm": "q_norm.weight",
    "k_norm": "k_norm.weight",
    "q": "q_proj",
    "k": "k_proj",
    "v": "v_proj",
    "o": "o_proj",
    "gate": "gate_proj",
    "up": "up_proj",
    "down": "down_proj",
}


def leaf_name(path: tuple) -> str:
    """The dotted name of a leaf of a `Llama`, from its JAX key path.

    Leaves of a `Run` carry the run's place in `blocks` and the word `stacked`.
    """
    words = []
    for key in path:
        if isinstance(key, jax.tree_util.SequenceKey):
            words.append(str(key.idx))
        elif key.name == "block":
            words.append("stacked")
        else:
            words.append(_ATTRIBUTES.get(key.name, key.name))
    return ".".join(words)


def named_params(llama: Llama) -> dict[str, Leaf]:
    """Every leaf of `llama` by its name, in the order of the tree."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(llama)
    return {leaf_name(path): leaf for path, leaf in leaves}


def to_params(llama: Llama) -> dict:
    """`llama` as a nested dict of arrays; stacks are unstacked, adapters and masks folded."""
    params: dict = {}
    for name, leaf in named_params(fold_kernels(unstack(llama))).items():
        *parents, last = name.split(".")
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return params


def from_params(config: LlamaConfig, params: dict, *, source: str = "params") -> Llama:
    """The Llama of a nested dict such as `to_params` makes.

    Layers are numbered from 0 without gaps; a layer without `self_attn` or `mlp` is one with that
    sublayer removed. Without `lm_head`, the head is tied.

    Raises:
      KeyError: a parameter is missing, by the name of the dict that lacks it.
    """
    layers = params.get("layers", {})
    return Llama(
        config=config,
        embed=params["embed_tokens"]["embedding"],
        blocks=tuple(
            _block(layers[str(index)], config, Origin(source, index))
            for index in range(len(layers))
        ),
        final_norm=params["norm"]["weight"],
        lm_head=_linear(params["lm_head"]) if "lm_head" in params else None,
    )


def _linear(params: dict) -> Linear:
    return Linear(params["kernel"], params.get("bias"))


def _block(params: dict, config: LlamaConfig, origin: Origin) -> Block:
    attn, mlp = params.get("self_attn"), params.get("mlp")
    return Block(
        attn_norm=None if attn is None else params["input_layernorm"]["weight"],
        attn=attn
        and Attention(
            *(_linear(attn[f"{part}_proj"]) for part in "qkvo"),
            *(attn[f"{part}_norm"]["weight"] if config.qk_norm else None for part in "qk"),
        ),
        mlp_norm=None if mlp is None else params["post_attention_layernorm"]["weight"],
        mlp=mlp and Mlp(*(_linear(mlp[f"{part}_proj"]) for part in ("gate", "up", "down"))),
        origin=origin,
    )
