"""The linears of a block by name, and which of them read the same input."""

from collections.abc import Mapping
from types import MappingProxyType

from jprune.llama.kernels import Leaf
from jprune.llama.model import Block

# Of each linear: its sublayer, its field there, and the name of what it reads. Linears that read
# the same share everything that is measured of it.
_PLACES = {
    "self_attn.q_proj": ("attn", "q", "attn_in"),
    "self_attn.k_proj": ("attn", "k", "attn_in"),
    "self_attn.v_proj": ("attn", "v", "attn_in"),
    "self_attn.o_proj": ("attn", "o", "attn_out"),
    "mlp.gate_proj": ("mlp", "gate", "mlp_in"),
    "mlp.up_proj": ("mlp", "up", "mlp_in"),
    "mlp.down_proj": ("mlp", "down", "mlp_out"),
}
INPUT_OF = MappingProxyType({name: place[2] for name, place in _PLACES.items()})


def linear_kernels(block: Block) -> dict[str, Leaf]:
    """The kernels of a block's linears by name, `self_attn.q_proj` and so on, in order."""
    return {
        name: getattr(getattr(block, sublayer), field).kernel
        for name, (sublayer, field, _) in _PLACES.items()
        if getattr(block, sublayer) is not None
    }


def with_kernels(block: Block, kernels: Mapping[str, Leaf]) -> Block:
    """`block` with other kernels in the linears that `kernels` names."""
    for name, kernel in kernels.items():
        sublayer, field, _ = _PLACES[name]
        part = getattr(block, sublayer)
        linear = getattr(part, field).replace(kernel=kernel)
        block = block.replace(**{sublayer: part.replace(**{field: linear})})
    return block
