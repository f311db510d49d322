"""How far a block turns the residual stream: block influence and angular distance."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jprune.core.errors import InputError
from jprune.core.mesh import paced
from jprune.evaluate.batches import map_batches, window_batch_size
from jprune.llama.blockwise import advance, blocks, ends, start
from jprune.llama.forward import Context, apply_block
from jprune.llama.kernels import ArrayLike
from jprune.llama.model import Block, Llama
from jprune.scores.result import Scores, rank
from jprune.scores.units import Unit, is_present, present, units


def influence(
    llama: Llama,
    ids: Int[np.ndarray, "windows length"],
    *,
    granularity: str = "block",
    protect=(),
    batch_size: int | None = None,
) -> Scores:
    """1 - mean over tokens of cos(h_in, h_out), the residual stream before and after a unit.

    For the last block, h_out is taken before the final norm.

    Reference: Men et al., ShortGPT (arXiv 2403.03853), section 3.2.

    Args:
      llama: the model.
      ids: calibration windows.
      granularity: of the units.
      protect: layers out of reach.
      batch_size: windows per step; by default what suits the device.
    """
    batch_size = batch_size or window_batch_size(ids.shape)
    batches = map_batches(partial(_cosines, llama), ids, batch_size, "block influence")
    cosines = np.concatenate(batches, axis=-1)[..., : len(ids)].astype(np.float64).mean(axis=-1)
    found = units(llama, granularity)
    there = present(llama)
    column = {"attention": 0, "mlp": 1, "block": 2}
    scores = tuple(
        float(1 - cosines[unit.layer, column[unit.part]]) if is_present(unit, there) else None
        for unit in found
    )
    return Scores(
        criterion="influence",
        granularity=granularity,
        units=found,
        scores=scores,
        order=rank(found, scores, protect),
        protected=tuple(protect),
    )


def angular(
    llama: Llama,
    ids: Int[np.ndarray, "windows length"],
    *,
    granularity: str = "block",
    protect=(),
    remove: int = 1,
    batch_size: int | None = None,
) -> Scores:
    """Angular distance across each run of n = `remove` contiguous blocks, at the last token.

    d_l = mean over windows of arccos(cos(h_l, h_{l+n})) / pi; the run with the least goes as a
    whole. `window_scores` has one d per run. A single block has a score of its own only for n = 1.

    Reference: Gromov et al., The Unreasonable Ineffectiveness of the Deeper Layers
    (arXiv 2403.17887), section 3.2.

    Args:
      llama: the model.
      ids: calibration windows.
      granularity: 'block'; there is no angular distance of sublayers.
      protect: layers out of reach: runs that hold one are left out.
      remove: how many contiguous blocks, n.
      batch_size: windows per step; by default what suits the device.

    Raises:
      InputError: another granularity, or no run of n blocks among those that may go.
    """
    if granularity != "block":
        raise InputError(
            f"angular scores are of contiguous blocks: use --granularity=block, not {granularity}"
        )
    layers, n = llama.num_layers, remove
    if layers < 2:
        raise InputError("a model of one block has none to spare")
    if not 1 <= n < layers:
        raise InputError(f"angular scores need remove from 1 to {layers - 1}, not {n}")
    batch_size = batch_size or window_batch_size(ids.shape)
    batches = map_batches(partial(_last_tokens, llama), ids, batch_size, "angular distance")
    h = np.concatenate(batches, axis=1)[:, : len(ids)].astype(np.float64)
    h /= np.linalg.norm(h, axis=-1, keepdims=True)
    cosines = np.clip((h[: layers - n + 1] * h[n:]).sum(axis=-1), -1, 1)
    distances = (np.arccos(cosines) / np.pi).mean(axis=-1)
    starts = [s for s in range(len(distances)) if not set(range(s, s + n)) & set(protect)]
    if not starts:
        raise InputError(f"no {n} contiguous blocks can go with layers {list(protect)} protected")
    # Ranking the runs also refuses distances that are not numbers.
    runs = [Unit(start, "block") for start in range(len(distances))]
    blocked = [start for start in range(len(distances)) if start not in starts]
    best = rank(runs, [float(d) for d in distances], blocked)[0]
    return Scores(
        criterion="angular",
        granularity=granularity,
        units=units(llama),
        scores=tuple(float(d) for d in distances) if n == 1 else (None,) * layers,
        order=tuple(range(best, best + n)),
        protected=tuple(protect),
        window_scores=tuple(float(d) for d in distances),
        n=n,
    )


def _cosine(a: Float[Array, "... hidden"], b: Float[Array, "... hidden"]) -> Float[Array, "..."]:
    a, b = a.astype(jnp.float32), b.astype(jnp.float32)
    norms = jnp.linalg.norm(a, axis=-1) * jnp.linalg.norm(b, axis=-1)
    return jnp.sum(a * b, axis=-1) / jnp.maximum(norms, 1e-12)


def _cosines(llama: Llama, ids: Int[ArrayLike, "batch length"]) -> Float[Array, "layers 3 batch"]:
    """Mean over the tokens of a window of cos(before, after) for attention, MLP and the block."""
    h, ctx = start(ends(llama), ids)
    cosines = []
    for block in blocks(llama):
        h, row = paced(_block_cosines(block, h, ctx))
        cosines.append(row)
    return jnp.stack(cosines)


@jax.jit
def _block_cosines(
    block: Block, h: Float[Array, "batch length hidden"], ctx: Context
) -> tuple[Float[Array, "batch length hidden"], Float[Array, "3 batch"]]:
    """The residual stream after a block, and the cosines of its parts and its own."""
    middle = apply_block(block.replace(mlp_norm=None, mlp=None), h, ctx)
    out = apply_block(block.replace(attn_norm=None, attn=None), middle, ctx)
    pairs = ((h, middle), (middle, out), (h, out))
    return out, jnp.stack([_cosine(a, b).mean(axis=-1) for a, b in pairs])


def _last_tokens(
    llama: Llama, ids: Int[ArrayLike, "batch length"]
) -> Float[Array, "boundaries batch hidden"]:
    """The residual stream at each window's last token, before each block and after the last."""
    h, ctx = start(ends(llama), ids)
    last = [h[:, -1]]
    for block in blocks(llama):
        h = paced(advance(block, h, ctx))
        last.append(h[:, -1])
    return jnp.stack(last).astype(jnp.float32)
