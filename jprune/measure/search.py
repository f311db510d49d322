"""The suite `search`: one trial of a search over stitched models, beside one forward pass."""

import dataclasses
import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from jprune.evaluate import StitchedModels, perplexity
from jprune.llama import Llama, forward_flops
from jprune.measure.timing import Job, Measurement
from jprune.transforms import StitchLayer, StitchPlan, drop_blocks

# Nine of Llama-2-7B's 32 layers are gone in the models of GPTailor, which has three variants.
REMOVED = 9 / 32
VARIANTS = 3
EVALUATION = (64, 512)
# Of a finetune's weights around its base's.
SPREAD = 1e-3


def search_jobs(
    llama: Llama,
    evaluation: tuple[int, int] = EVALUATION,
    remove: int | None = None,
    variants: int = VARIANTS,
    seed: int = 0,
) -> list[Job]:
    """The NLL of models stitched from `llama` and variants of it, another one in each run.

    Each is drawn at random from the whole space, and no residual streams are kept from one to the
    next. Beside it the perplexity of `llama` without as many of its layers. Ratio, trials a minute
    and compilations after the first trial are figures of the last job.

    Reference: GPTailor (arXiv 2506.20480), section 3.

    Args:
      llama: the base. The variants are it with small random numbers added.
      evaluation: windows and tokens per window, random.
      remove: how many layers are gone; by default 9 of 32.
      variants: how many there are beside the base.
      seed: of everything random.
    """
    layers = llama.num_layers
    gone = round(REMOVED * layers) if remove is None else remove
    rng = np.random.default_rng(seed)
    ids = rng.integers(0, llama.config.vocab_size, evaluation).astype(np.int32)
    short = drop_blocks(range(layers - gone, layers))(llama)
    flops = forward_flops(short, ids.size, ids.shape[1])
    size = f"{ids.shape[0]} x {ids.shape[1]}"

    @functools.cache  # the variants are there only once a trial is measured
    def models() -> StitchedModels:
        keys = jax.random.split(jax.random.key(seed + 1), variants)
        return StitchedModels(llama, [finetuned(llama, key) for key in keys], memory=0)

    forward = Job(
        f"perplexity of {layers - gone} layers, {size}", lambda: perplexity(short, ids).nll, flops
    )

    def figures(trial: Measurement, others: Mapping[str, Measurement]) -> Mapping[str, float]:
        return {
            "ratio": trial.seconds / others[forward.name].seconds,
            "trials_per_minute": 60 / trial.seconds,
            "compilations": trial.compilations,
        }

    return [
        forward,
        Job(
            f"one search trial, {layers} - {gone} layers of {1 + variants} models, {size}",
            lambda: models().nll(random_plan(rng, layers, gone, variants), ids),
            flops,
            figures,
        ),
    ]


def random_plan(
    rng: np.random.Generator, num_layers: int, remove: int, num_variants: int
) -> StitchPlan:
    """A uniform choice of layers, for each of the variants by coin, and of factors in [0, 1)."""
    kept = np.sort(rng.choice(num_layers, num_layers - remove, replace=False)).tolist()
    chosen = rng.random((len(kept), num_variants)) < 0.5
    rows = zip(kept, chosen, rng.random(len(kept)).tolist(), strict=True)
    return StitchPlan(
        [StitchLayer(layer, np.flatnonzero(on).tolist(), factor=x) for layer, on, x in rows]
    )


def finetuned(llama: Llama, key: Key[Array, ""]) -> Llama:
    """`llama` with normal random numbers, standard deviation `SPREAD`, added to its blocks."""
    leaves, treedef = jax.tree.flatten(llama.blocks)
    keys = jax.random.split(key, len(leaves))
    blocks = [_near(leaf, one) for leaf, one in zip(leaves, keys, strict=True)]
    return dataclasses.replace(llama, blocks=jax.tree.unflatten(treedef, blocks))


@jax.jit
def _near(x: Array, key: Key[Array, ""]) -> Array:
    if not jnp.issubdtype(x.dtype, jnp.floating):  # a mask
        return x
    noise = SPREAD * jax.random.normal(key, x.shape, jnp.float32)
    return (x.astype(jnp.float32) + noise).astype(x.dtype)
