"""Linear kernels: a plain array, a low-rank adapter on it, or a mask over it.

A kernel is stored [in, out]. Anything that multiplies by a kernel goes through `linear`, so a new
kind of kernel is one class here and nothing elsewhere.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, Key

# A leaf of a model's tree: an array, or what stands for one (a shape, a declaration, a sharding,
# a number per array). Docstrings give the shapes.
Leaf = Any
ArrayLike = Array | np.ndarray


@struct.dataclass
class Lora:
    """A low-rank update W + scale * a @ b of a frozen kernel W.

    Reference: Hu et al., LoRA (arXiv 2106.09685), section 4.1.

    Attributes:
      kernel: W [in, out].
      a: [in, rank].
      b: [rank, out].
      scale: alpha / rank.
      dropout: rate at which inputs of the update are dropped in training.
    """

    kernel: Leaf
    a: Leaf
    b: Leaf
    scale: float = struct.field(pytree_node=False, default=1.0)
    dropout: float = struct.field(pytree_node=False, default=0.0)


@struct.dataclass
class Masked:
    """A kernel of which only the entries under a true mask are used.

    Attributes:
      kernel: an array [in, out], or `Lora`.
      mask: booleans [in, out].
    """

    kernel: "Leaf | Lora"
    mask: Leaf


Kernel = Leaf | Lora | Masked


def matmul(
    x: Float[Array, "... in"], w: Float[ArrayLike, "in out"], dtype=None
) -> Float[Array, "... out"]:
    """x @ w; float32 operands are multiplied as float32 also where the device prefers less.

    Args:
      x: inputs.
      w: weights.
      dtype: of the result, where it should be wider than the operands.
    """
    precision = jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    return jnp.matmul(x, w, precision=precision, preferred_element_type=dtype)


def linear(
    x: Float[Array, "... in"], kernel: Kernel, *, key: Key[Array, ""] | None = None
) -> Float[Array, "... out"]:
    """x W for any kind of kernel.

    Args:
      x: inputs.
      kernel: an array W; `Lora`: x W + scale (dropout(x) a) b; `Masked`: x (W * mask), where an
        adapter below the mask is added before masking, so that training and folding agree; with
        dropout, which spares W, x (W * mask) + dropout(x) (scale a b * mask).
      key: dropout is applied only when a key is given, that is in training.
    """
    if isinstance(kernel, Masked):
        below = kernel.kernel
        if key is None or not isinstance(below, Lora) or below.dropout == 0:
            return matmul(x, fold(kernel))
        update = fold(Masked(_update(below), kernel.mask)).astype(x.dtype)
        plain = matmul(x, fold(kernel.replace(kernel=below.kernel)))
        return plain + matmul(_dropped(x, below.dropout, key), update)
    if isinstance(kernel, Lora):
        narrow = x if key is None else _dropped(x, kernel.dropout, key)
        update = matmul(matmul(narrow, kernel.a.astype(x.dtype)), kernel.b.astype(x.dtype))
        return matmul(x, kernel.kernel) + (kernel.scale * update).astype(x.dtype)
    return matmul(x, kernel)


def _dropped(x: Float[Array, "... in"], rate: float, key: Key[Array, ""]) -> Float[Array, "... in"]:
    """x with some of its numbers zero, the others larger, so that the mean stays."""
    if rate == 0:
        return x
    keep = jax.random.bernoulli(key, 1 - rate, x.shape)
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


def _update(kernel: Lora) -> Float[Array, "*layers in out"]:
    """scale * a @ b in float32, also of a stack."""
    a, b = (jnp.asarray(factor, jnp.float32) for factor in (kernel.a, kernel.b))
    return kernel.scale * jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def fold(kernel: Kernel) -> Float[ArrayLike, "*layers in out"]:
    """The plain array that multiplies like `kernel` without dropout; of a stack, a stack.

    An adapter is added in float32 and rounded once to the dtype of the kernel it sits on.
    """
    if isinstance(kernel, Masked):
        weight = fold(kernel.kernel)
        return jnp.where(kernel.mask, weight, jnp.zeros((), weight.dtype))
    if isinstance(kernel, Lora):
        weight = kernel.kernel.astype(jnp.float32) + _update(kernel)
        return weight.astype(kernel.kernel.dtype)
    return kernel


def kernel_shape(kernel: Kernel) -> tuple[int, ...]:
    """The shape of the weight under adapters and masks."""
    return kernel_shape(kernel.kernel) if is_kernel(kernel) else kernel.shape


def kernel_dtype(kernel: Kernel) -> np.dtype:
    """The dtype of the weight under adapters and masks."""
    return kernel_dtype(kernel.kernel) if is_kernel(kernel) else kernel.dtype


def take(kernel: Kernel, indices: Int[np.ndarray, " chosen"], axis: int) -> Kernel:
    """A kernel's part for some inputs (`axis` 0) or outputs (`axis` 1), in the order given."""
    if isinstance(kernel, Masked):
        return kernel.replace(
            kernel=take(kernel.kernel, indices, axis), mask=take(kernel.mask, indices, axis)
        )
    if isinstance(kernel, Lora):
        factor = ("a", "b")[axis]
        cut = {name: take(getattr(kernel, name), indices, axis) for name in ("kernel", factor)}
        return kernel.replace(**cut)
    return kernel[indices] if axis == 0 else kernel[:, indices]


def is_kernel(x: object) -> bool:
    """Whether `x` is a kernel that is more than an array."""
    return isinstance(x, Lora | Masked)


def fold_kernels(tree):
    """`tree` with every `Lora` and `Masked` kernel replaced by the array it stands for."""
    return jax.tree.map(lambda x: fold(x) if is_kernel(x) else x, tree, is_leaf=is_kernel)
