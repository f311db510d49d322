"""Kinds of retraining: which parameters train, and that others and zeros stay."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jprune.core.errors import InputError
from jprune.llama import Masked
from jprune.llama.linears import linear_kernels
from jprune.llama.names import named_params
from jprune.llama.stack import unstack
from jprune.llama.zeros import mask_zeros
from jprune.retrain import AdamW, TrainSettings, split, train, trainable
from tests.tiny import tiny, windows

SETTINGS = TrainSettings(
    3, 4, optimizer=AdamW(learning_rate=0.01, warmup_steps=0, weight_decay=0.5)
)
IDS = windows(8, 10)


def trained(llama, parameters, last=1):
    student, where = trainable(llama, parameters, last)
    return unstack(train(student, IDS, SETTINGS, where=where).llama)


def changed(before, after):
    old, new = named_params(before), named_params(after)
    return {name for name in old if (np.asarray(old[name]) != np.asarray(new[name])).any()}


@pytest.mark.parametrize("last", [1, 3])
def test_the_last_blocks_and_the_head(last):
    llama = tiny(3)
    kept = [f"layers.{index}." for index in range(3 - last, 3)]
    wanted = {name for name in named_params(llama) if name.startswith(tuple(kept))}
    assert changed(llama, trained(llama, "last_k", last)) == {
        *wanted, "norm.weight", "lm_head.kernel",
    }  # fmt: skip


def test_a_tied_head_stays():
    llama = tiny(3, tie_word_embeddings=True)
    found = changed(llama, trained(llama, "last_k"))
    assert {name.split(".")[0] for name in found} == {"layers", "norm"}


def test_more_blocks_than_there_are():
    with pytest.raises(InputError, match="the last 4 blocks cannot train: the model has 3"):
        trainable(tiny(3), "last_k", 4)


def test_masks_never_train():
    llama = mask_zeros(_sparse(tiny(2)))
    params, rest = split(llama)
    assert not any(name.endswith(".mask") for name in params)
    assert sum(name.endswith(".mask") for name in rest.frozen) == 14


def test_zeros_stay_zero_when_all_weights_train():
    llama = _sparse(tiny(2))
    after = trained(mask_zeros(llama), "full")
    for old, new in zip(llama.blocks, after.blocks, strict=True):
        kernels = linear_kernels(new)
        for name, before in linear_kernels(old).items():
            gone = np.asarray(before) == 0
            masked = kernels[name]
            assert isinstance(masked, Masked) and gone.any()
            assert not np.asarray(masked.kernel)[gone].any()
            assert (np.asarray(masked.kernel) != np.asarray(before))[~gone].all()


def test_a_dense_model_has_no_masks():
    llama = tiny(2)
    assert mask_zeros(llama) is llama


def _sparse(llama):
    """Every seventh weight of all kernels is zero."""

    def zeroed(path, leaf):
        names = [getattr(key, "name", "") for key in path]
        if names[0] != "blocks" or "kernel" not in names:
            return leaf
        keep = jnp.arange(leaf.size).reshape(leaf.shape) % 7 > 0
        return jnp.where(keep, leaf, 0)

    return jax.tree_util.tree_map_with_path(zeroed, llama)
