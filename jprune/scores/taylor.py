"""First-order Taylor saliency, block by block.

Only sums over |w * G| are wanted, never the gradients themselves. The backward pass therefore goes
down the stack with the gradient of one block at a time: it is summed over all calibration windows,
multiplied with the weights, reduced to two numbers and dropped. The peak is the model, the inputs
of every block, and one block's gradient, instead of two models.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jprune.core.errors import unknown
from jprune.evaluate.batches import window_batch_size
from jprune.llama.forward import Context, context, embed
from jprune.llama.loss import token_nll
from jprune.llama.model import Block, Llama, anonymous
from jprune.llama.virtual import Plan, gated_block, source_block, virtual
from jprune.scores.parts import part_sums, part_values
from jprune.scores.result import Scores, rank
from jprune.scores.units import units

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
    stacked, plan = virtual(llama)
    if reduce == "abs_of_sum":
        batch_size = batch_size or window_batch_size(ids.shape, stacked)
    else:
        batch_size = 1
    if reduce == "fisher":
        power = 2.0
    padding = -len(ids) % batch_size
    batches = np.pad(ids, ((0, padding), (0, 0)), mode="edge")
    # Every window counts as one in a mean over all of them, or alone; filled-up ones not at all.
    weight = np.pad(np.ones(len(ids), np.float32), (0, padding))
    weight /= len(ids) if reduce == "abs_of_sum" else 1
    sums = _saliency(
        anonymous(stacked),
        plan,
        batches.reshape(-1, batch_size, ids.shape[1]),
        weight.reshape(-1, batch_size),
        power,
        accumulate=reduce == "abs_of_sum",
    )
    values = part_values(llama, np.asarray(sums), granularity)
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


@partial(jax.jit, static_argnames="accumulate")
def _saliency(
    llama: Llama,
    plan: Plan,
    ids: Int[Array, "batches batch length"],
    weight: Float[Array, "batches batch"],
    power: Float[Array, ""],
    accumulate: bool,
) -> Float[Array, "steps 2"]:
    """Per step of the plan: sums of |w * G|^power over attention and MLP.

    G is summed over batches first (`accumulate`), or each batch has its own.
    """
    ctx = context(llama.config, ids.shape[-1])
    inputs, last = _block_inputs(llama, plan, ids, ctx)

    def loss(h, ids, weight):
        nll = token_nll(llama, h[:, :-1], ids[:, 1:])
        return jnp.sum(nll.mean(axis=-1) * weight)

    cotangents = jax.lax.map(lambda args: jax.grad(loss)(*args), (last, ids, weight))

    def step(cotangents, row):
        entry, inputs = row
        block = source_block(llama, entry.layer)

        def gradient(h, cotangent):
            run = partial(gated_block, ctx=ctx, attn=entry.attn, mlp=entry.mlp)
            return jax.vjp(lambda block, h: run(block, h), block, h)[1](cotangent)

        if accumulate:
            total, cotangents = _summed(gradient, inputs, cotangents)
            return cotangents, _part_saliency(block, total, power)

        def one(args):
            grad, cotangent = gradient(*args)
            return _part_saliency(block, grad, power), cotangent

        saliency, cotangents = jax.lax.map(one, (inputs, cotangents))
        return cotangents, saliency.sum(axis=0)

    return jax.lax.scan(step, cotangents, (plan, inputs), reverse=True)[1]


def _block_inputs(
    llama: Llama, plan: Plan, ids: Int[Array, "batches batch length"], ctx: Context
) -> tuple[Array, Array]:
    """The residual stream before each step, [steps, batches, batch, length, hidden]; the last."""

    def step(h, entry):
        block = source_block(llama, entry.layer)
        out = jax.lax.map(lambda h: gated_block(block, h, ctx, entry.attn, entry.mlp), h)
        return out, h

    last, inputs = jax.lax.scan(step, embed(llama, ids), plan)
    return inputs, last


def _summed(gradient, inputs, cotangents):
    """Block gradients summed over batches in float32, and the cotangents of the inputs."""
    if len(inputs) == 1:
        grad, cotangent = gradient(inputs[0], cotangents[0])
        return grad, cotangent[None]

    def add(total, args):
        grad, cotangent = gradient(*args)
        return jax.tree.map(lambda t, g: t + g.astype(t.dtype), total, grad), cotangent

    shapes = jax.eval_shape(gradient, inputs[0], cotangents[0])[0]
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), shapes)
    return jax.lax.scan(add, zeros, (inputs, cotangents))


def _part_saliency(block: Block, grad: Block, power: Float[Array, ""]) -> Float[Array, "2"]:
    def total(w, g):
        return jnp.sum(jnp.abs(w.astype(jnp.float32) * g.astype(jnp.float32)) ** power)

    return part_sums(jax.tree.map(total, block, grad))
