"""Finetunes of a tiny model, and what is common to the tests of merging them."""

import functools

import jax
import numpy as np

from jprune.llama import named_params
from jprune.transforms import merge_models
from tests.tiny import finetunes, tiny

BASE = tiny(4)
MATH, CODE, CHAT = VARIANTS = finetunes(BASE, "math", "code", "chat")
OPTIONS = {
    "linear": {"weights": [3, 2, 1]},
    "slerp": {"t": 0.3},
    "task_arithmetic": {"factor": 0.4},
    "ties": {"density": 0.3},
    "dare": {"density": 0.5, "seed": 3},
    "breadcrumbs": {"density": 0.4},
    "model_stock": {},
    "passthrough": {"scale": 1.0},
}
NUMBER = {"slerp": 2, "passthrough": 1}
ENDS = ("embed_tokens.embedding", "norm.weight", "lm_head.kernel")


def merged(name, models=VARIANTS, base=BASE, **changes):
    options = OPTIONS[name] | changes
    return merge_models(list(models)[: NUMBER.get(name, 3)], name, base=base, **options)


def close(a, b, atol=1e-6):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(functools.partial(np.testing.assert_allclose, atol=atol, rtol=0), a, b)


def places(a, b):
    """The layers, and 'ends', in which two models differ."""
    first, second = named_params(a), named_params(b)
    differ = {name for name in first if not np.array_equal(first[name], second[name])}
    layers = {int(name.split(".")[1]) for name in differ if name.startswith("layers.")}
    return layers | ({"ends"} if differ & set(ENDS) else set())
