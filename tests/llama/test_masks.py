"""Packed masks: their algebra against that of booleans."""

import jax
import numpy as np
import pytest

from jprune.core import InputError
from jprune.llama.masks import Mask, count, intersect, invert, pack, sparsity, unpack

RNG = np.random.default_rng(0)
A, B = (RNG.random((13, 5)) < 0.6 for _ in range(2))


@pytest.mark.parametrize("rows", [1, 8, 13, 16])
@pytest.mark.parametrize("on_device", [False, True])
def test_packing_and_back(rows, on_device):
    mask = RNG.random((rows, 5)) < 0.5
    packed = pack(jax.numpy.asarray(mask) if on_device else mask)
    assert packed.shape == (rows, 5) and packed.bits.shape == (-(-rows // 8), 5)
    np.testing.assert_array_equal(unpack(packed), mask)
    assert count(packed) == mask.sum()


def test_invert_and_intersect():
    masks, others = {"w": pack(A), "v": pack(B)}, {"w": pack(B), "u": pack(A)}
    np.testing.assert_array_equal(unpack(invert(masks)["w"]), ~A)
    assert count(invert(masks)["w"]) == (~A).sum()
    both = intersect(masks, others)
    assert set(both) == {"w", "v", "u"}
    np.testing.assert_array_equal(unpack(both["w"]), A & B)
    np.testing.assert_array_equal(unpack(both["v"]), B)
    np.testing.assert_array_equal(unpack(both["u"]), A)


def test_identities():
    masks = {"w": pack(A)}
    np.testing.assert_array_equal(invert(invert(masks))["w"].bits, masks["w"].bits)
    np.testing.assert_array_equal(intersect(masks, masks)["w"].bits, masks["w"].bits)
    assert count(intersect(masks, invert(masks))["w"]) == 0


def test_sparsity_is_over_all_kernels():
    masks = {"w": pack(np.ones((8, 2), bool)), "v": pack(np.zeros((8, 6), bool))}
    assert sparsity(masks) == 0.75
    assert sparsity({}) == 0


def test_masks_are_a_pytree():
    doubled = jax.tree.map(lambda bits: bits, {"w": pack(A)})
    assert isinstance(doubled["w"], Mask) and doubled["w"].rows == 13


def test_shapes_that_differ():
    with pytest.raises(InputError, match=r"masks of w differ in shape: \(13, 5\) and \(12, 5\)"):
        intersect({"w": pack(A)}, {"w": pack(A[:12])})
