"""Masks by kernel name, eight weights to a byte.

Masks are a dict from the name of a kernel (`layers.3.self_attn.q_proj.kernel`) to its `Mask`: a
pytree of its own, apart from the model.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Bool

from jprune.core.errors import InputError
from jprune.llama.kernels import ArrayLike, Leaf


@struct.dataclass
class Mask:
    """Which weights of a kernel [in, out] stay.

    Attributes:
      bits: unsigned bytes [ceil(in / 8), out], the first input of each eight in the highest bit;
        bits after the last input are 0.
      rows: how many inputs there are.
    """

    bits: Leaf
    rows: int = struct.field(pytree_node=False)

    @property
    def shape(self) -> tuple[int, int]:
        """(in, out)."""
        return self.rows, self.bits.shape[1]


Masks = Mapping[str, Mask]


def pack(mask: Bool[ArrayLike, "in out"]) -> Mask:
    """A mask of booleans, packed."""
    xp = np if isinstance(mask, np.ndarray) else jnp
    return Mask(xp.packbits(mask, axis=0), mask.shape[0])


def unpack(mask: Mask) -> Bool[ArrayLike, "in out"]:
    """The booleans of a packed mask."""
    xp = np if isinstance(mask.bits, np.ndarray) else jnp
    return xp.unpackbits(mask.bits, axis=0, count=mask.rows).astype(bool)


def invert(masks: Masks) -> dict[str, Mask]:
    """What stays goes, what goes stays."""
    return {name: pack(~unpack(mask)) for name, mask in masks.items()}


def intersect(a: Masks, b: Masks) -> dict[str, Mask]:
    """What stays under both; a kernel that only one of them names is that one's.

    Raises:
      InputError: masks of one kernel that differ in shape.
    """
    for name in a.keys() & b.keys():
        if a[name].shape != b[name].shape:
            raise InputError(
                f"the masks of {name} differ in shape: {a[name].shape} and {b[name].shape}"
            )
    return {
        name: Mask(a[name].bits & b[name].bits, a[name].rows)
        if name in a and name in b
        else (a.get(name) or b[name])
        for name in {**a, **b}
    }


def count(mask: Mask) -> int:
    """How many weights stay."""
    bits = mask.bits
    if isinstance(bits, np.ndarray):
        return int(np.bitwise_count(bits).sum(dtype=np.int64))
    # Rows are summed apart: 2^31 weights and more do not fit a 32-bit integer.
    return int(np.asarray(_row_counts(bits)).sum(dtype=np.int64))


@jax.jit
def _row_counts(bits):
    return jnp.sum(jax.lax.population_count(bits).astype(jnp.int32), axis=1)


def sparsity(masks: Masks) -> float:
    """Share of the masked kernels' weights that goes."""
    size = sum(mask.rows * mask.bits.shape[1] for mask in masks.values())
    return 1 - sum(map(count, masks.values())) / size if size else 0.0
