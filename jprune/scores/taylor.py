"""First-order Taylor saliency, block by block.

Only sums over |w * G| are wanted, never the gradients themselves. The backward pass therefore goes
down the model with the gradient of one block at a time: it is summed over all calibration windows,
multiplied with the weights, reduced to two numbers and dropped. The peak is the model, the inputs
of every block for all windows, and one block's gradient, instead of two models; where there is room
for them, the outputs of the linears are kept too, instead of computed again in the backward pass.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jprune.checkpoints.placement import free_bytes
from jprune.core.errors import unknown
from jprune.core.mesh import batch_parts, paced, put_batch
from jprune.core.processes import on_writer, to_host
from jprune.evaluate.batches import window_batch_size
from jprune.llama.blockwise import ends, start
from jprune.llama.forward import Context, apply_block
from jprune.llama.kernels import ArrayLike, fold_kernels
from jprune.llama.loss import token_nll
from jprune.llama.model import Block, Llama, anonymous
from jprune.llama.stack import unstack
from jprune.scores.parts import part_sums, part_values
from jprune.scores.result import Scores, rank
from jprune.scores.units import units

# Of a device's free memory, what outputs of linears may take. Devices that do not say what they
# have free (CPUs) keep none: there it took twice the memory and no less time.
KEPT_SHARE = 1 / 4

REDUCTIONS = ("abs_of_sum", "sum_of_abs", "fisher")


def taylor(
    llama: Llama,
    ids: Int[np.ndarray, "windows length"],
    *,
    granularity: str = "block",
    protect=(),
    power: float = 1.0,
    reduce: str = "abs_of_sum",
    batch_size: int | None = None,
) -> Scores:
    """Sum over the weights of each unit, norms included, of |w * G|^power.

    With `reduce`:
      abs_of_sum: G is the gradient of the mean NLL over all calibration tokens.
      sum_of_abs: sum over windows of |w * G_n|^power, G_n that of window n's mean NLL.
      fisher: sum over windows of (w * G_n)^2, whatever `power`.

    References: Kim et al., Shortened LLaMA (arXiv 2402.02834), section 2.2; Ma et al., LLM-Pruner
    (arXiv 2305.11627), section 3.2; Molchanov et al. (arXiv 1906.10771), equation 8.

    Args:
      llama: the model.
      ids: calibration windows.
      granularity: of the units.
      protect: layers out of reach.
      power: exponent p.
      reduce: see above.
      batch_size: windows per step; by default what suits the device.

    Raises:
      InputError: an unknown `reduce`.
    """
    if reduce not in REDUCTIONS:
        raise unknown("reduction", reduce, REDUCTIONS)
    accumulate = reduce == "abs_of_sum"
    batch_size = (batch_size or window_batch_size(ids.shape)) if accumulate else 1
    padding = -len(ids) % batch_size
    batches = np.pad(ids, ((0, padding), (0, 0)), mode="edge").reshape(-1, batch_size, ids.shape[1])
    # Every window counts as one in a mean over all of them, or alone; filled-up ones not at all.
    weight = np.pad(np.ones(len(ids), np.float32), (0, padding)).reshape(-1, batch_size)
    weight /= len(ids) if accumulate else 1
    single = anonymous(unstack(llama))
    single = single.replace(blocks=tuple(map(fold_kernels, single.blocks)))
    step = len(batches) if accumulate else 1
    sums = sum(
        _saliency(
            single,
            batches[first : first + step],
            weight[first : first + step],
            2.0 if reduce == "fisher" else float(power),
        )
        for first in range(0, len(batches), step)
    )
    values = part_values(llama, to_host(sums), granularity)
    found = units(llama, granularity)
    return Scores(
        criterion="taylor",
        granularity=granularity,
        units=found,
        scores=values,
        order=rank(found, values, protect),
        protected=tuple(protect),
        settings={"power": power, "reduce": reduce},
    )


def _saliency(
    llama: Llama,
    ids: Int[np.ndarray, "batches batch length"],
    weight: Float[np.ndarray, "batches batch"],
    power: float,
) -> Float[Array, "layers 2"]:
    """Per block: sums of |w * G|^power over attention and MLP, G summed over the batches."""
    keep = _has_room_to_keep(llama, ids.size)
    passes = [_forward(llama, put_batch(batch), keep) for batch in ids]
    cotangents = [
        _cotangent(ends(llama), h, put_batch(batch), put_batch(share))
        for (_, h, _), batch, share in zip(passes, ids, weight, strict=True)
    ]
    sums = []
    for block in reversed(llama.blocks):
        total = None
        for at, (ctx, _, kept) in enumerate(passes):
            grad, cotangents[at] = paced(_backward(block, ctx, *kept.pop(), cotangents[at], keep))
            total = grad if len(passes) == 1 else _add(total, grad)
        sums.append(_part_saliency(block, total, power))
    return jnp.stack(sums[::-1])


def _forward(
    llama: Llama, ids: Int[ArrayLike, "batch length"], keep: bool
) -> tuple[Context, Float[Array, "batch length hidden"], list[tuple[Array, list[Array]]]]:
    """The context of a pass, its last residual stream, and what each block read and kept."""
    h, ctx = start(ends(llama), ids)
    kept = []
    for block in llama.blocks:
        after, residuals = paced(_advance(block, h, ctx, keep))
        kept.append((h, residuals))
        h = after
    return ctx, h, kept


def input_bytes(llama: Llama, tokens: int) -> int:
    """What the inputs of all blocks take on a device, as long as the backward pass needs them.

    Args:
      llama: the model, or its shapes.
      tokens: of all calibration windows.
    """
    hidden = llama.embed.shape[1] * llama.embed.dtype.itemsize
    return tokens * hidden * (1 + llama.num_layers) // batch_parts()


def _has_room_to_keep(llama: Llama, tokens: int) -> bool:
    """Whether the outputs of all linears may stay until the backward pass."""
    kernels = (leaf for leaf in jax.tree.leaves(llama.blocks) if leaf.ndim == 2)
    size = tokens * sum(kernel.shape[1] * kernel.dtype.itemsize for kernel in kernels)
    free = free_bytes(jax.local_devices()[0]) or 0
    # One answer for all processes: they run the same programs.
    return on_writer(lambda: size // batch_parts() <= KEPT_SHARE * free)


@partial(jax.jit, static_argnames="keep")
def _advance(
    block: Block, h: Float[Array, "batch length hidden"], ctx: Context, keep: bool
) -> tuple[Float[Array, "batch length hidden"], list[Array]]:
    """The residual stream after a block, and what its backward pass needs beside its inputs."""
    after, pullback = _vjp(block, h, ctx, keep)
    leaves, own = jax.tree.leaves(pullback), jax.tree.leaves((block, h, ctx))
    return after, [leaf for leaf in leaves if not _is_any(leaf, own)]


@partial(jax.jit, static_argnames="keep")
def _backward(
    block: Block,
    ctx: Context,
    h: Float[Array, "batch length hidden"],
    kept: list[Array],
    cotangent: Float[Array, "batch length hidden"],
    keep: bool,
) -> tuple[Block, Float[Array, "batch length hidden"]]:
    """Gradients with respect to a block and to its input, from what `_advance` kept.

    The forward pass is traced again for its structure; that what it computes is kept already
    leaves nothing of it to run.
    """
    _, pullback = _vjp(block, h, ctx, keep)
    (leaves, structure), own = jax.tree.flatten(pullback), jax.tree.leaves((block, h, ctx))
    rest = iter(kept)
    leaves = [leaf if _is_any(leaf, own) else next(rest) for leaf in leaves]
    return jax.tree.unflatten(structure, leaves)(cotangent)


def _vjp(block: Block, h: Float[Array, "batch length hidden"], ctx: Context, keep: bool):
    """`jax.vjp` of `apply_block`; `keep` says whether products are kept or computed again."""
    policy = jax.checkpoint_policies.dots_with_no_batch_dims_saveable if keep else None
    return jax.vjp(jax.checkpoint(partial(apply_block, ctx=ctx), policy=policy), block, h)


def _is_any(x: Array, others: list[Array]) -> bool:
    return any(x is other for other in others)


@jax.jit
def _cotangent(
    llama: Llama,
    h: Float[Array, "batch length hidden"],
    ids: Int[ArrayLike, "batch length"],
    weight: Float[ArrayLike, " batch"],
) -> Float[Array, "batch length hidden"]:
    """The gradient of the weighted sum of the windows' mean NLL with respect to `h`."""

    def loss(h):
        return jnp.sum(token_nll(llama, h[:, :-1], ids[:, 1:]).mean(axis=-1) * weight)

    return jax.grad(loss)(h)


@partial(jax.jit, donate_argnums=0)
def _add(total: Block | None, grad: Block) -> Block:
    """Gradients summed in float32."""
    wide = jax.tree.map(lambda g: g.astype(jnp.float32), grad)
    return wide if total is None else jax.tree.map(jnp.add, total, wide)


@partial(jax.jit, static_argnames="power")
def _part_saliency(block: Block, grad: Block, power: float) -> Float[Array, "2"]:
    def total(w, g):
        saliency = jnp.abs(w.astype(jnp.float32) * g.astype(jnp.float32))
        return jnp.sum(saliency if power == 1 else saliency**power)

    return part_sums(jax.tree.map(total, block, grad))
