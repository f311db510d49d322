"""AdamW with warm-up, cosine decay and clipping, as one optax chain."""

import dataclasses
import functools
import re

import jax.numpy as jnp
import optax

from jprune.core.errors import InputError

# Norm weights and biases are not decayed; in a stack they have two axes like any matrix, so the
# name decides, not the shape.
_DECAYED = re.compile(r"\.(kernel|embedding|a|b)$")


@dataclasses.dataclass(frozen=True)
class AdamW:
    """Settings of the optimizer.

    Attributes:
      learning_rate: at the peak.
      warmup_steps: linear from 0 to the peak.
      decay_steps: how many of the last steps the rate falls in, along half a cosine; before them
        it stays at the peak. None: all steps after the warm-up.
      final_fraction: of the peak that remains at the last step.
      b1: decay of the mean of gradients.
      b2: decay of the mean of squared gradients.
      eps: added to the root of the latter.
      weight_decay: decoupled, on matrices only: not on norms and biases.
      clip_norm: largest global norm of the gradient; None does not clip.
    """

    learning_rate: float = 1e-4
    warmup_steps: int = 100
    decay_steps: int | None = None
    final_fraction: float = 0.0
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float | None = 1.0


def decays(name: str) -> bool:
    """Whether weight decay applies to the parameter `name`."""
    return _DECAYED.search(name) is not None


def schedule(settings: AdamW, steps: int) -> optax.Schedule:
    """The learning rate by step: linear warm-up, a plateau if asked for, half a cosine down.

    Reference: Loshchilov and Hutter, SGDR (arXiv 1608.03983), equation 5, without restarts; Hu et
    al., MiniCPM (arXiv 2404.06395), section 4, for the plateau.
    """
    warmup, peak = settings.warmup_steps, settings.learning_rate
    decay = steps - warmup if settings.decay_steps is None else settings.decay_steps
    if warmup < 0 or decay < 1 or warmup + decay > steps:
        raise InputError(
            f"{warmup} warm-up steps and {settings.decay_steps} decay steps do not fit in {steps}"
        )
    parts = [
        optax.linear_schedule(0.0, peak, max(warmup, 1)),
        optax.constant_schedule(peak),
        optax.cosine_decay_schedule(peak, decay, settings.final_fraction),
    ]
    return optax.join_schedules(parts, [warmup, steps - decay])


@functools.lru_cache(maxsize=8)
def adamw(settings: AdamW, steps: int) -> optax.GradientTransformation:
    """The optimizer of a run of `steps` steps over a dict of named parameters.

    Clip by global norm, then with m, v the bias-corrected means of g and g^2:
    w <- w - lr_t (m / (sqrt(v) + eps) + weight_decay * w). Equal arguments give the same object,
    so that a step jitted with it is compiled once.

    Reference: Loshchilov and Hutter, decoupled weight decay (arXiv 1711.05101), algorithm 2.
    """
    parts = [
        optax.scale_by_adam(settings.b1, settings.b2, settings.eps, mu_dtype=jnp.float32),
        optax.add_decayed_weights(
            settings.weight_decay, mask=lambda params: {name: decays(name) for name in params}
        ),
        optax.scale_by_learning_rate(schedule(settings, steps)),
    ]
    if settings.clip_norm is not None:
        parts.insert(0, optax.clip_by_global_norm(settings.clip_norm))
    return optax.chain(*parts)
