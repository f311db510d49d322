"""Weights from training as steps of a recipe: sums by hand, masks, and files that do not fit."""

import jax
import numpy as np
import pytest

from jprune.checkpoints.mask_files import store
from jprune.core.errors import InputError
from jprune.llama import Masked, named_params
from jprune.llama.kernels import Lora
from jprune.llama.linears import linear_kernels
from jprune.llama.masks import pack
from jprune.llama.stack import stack
from jprune.pipeline.trained_files import store_adapters, store_weights
from jprune.transforms import add_lora, from_step, lora_weights, trained_weights
from jprune.transforms.stored import keeps_shapes, stored_digests
from tests.tiny import finetunes, tiny

UP = "layers.{}.mlp.up_proj.kernel"


def adapted(llama, masked=()):
    """Adapters whose b is not zero, on some kernels below a mask that keeps every second input."""

    def change(name, kernel):
        if not isinstance(kernel, Lora):
            return kernel
        rng = np.random.default_rng(len(name))
        b = rng.normal(size=kernel.b.shape).astype(np.float32)
        lora = kernel.replace(b=jax.numpy.asarray(b))
        if name not in masked:
            return lora
        mask = np.zeros(kernel.kernel.shape, bool)
        mask[::2] = True
        return Masked(lora, jax.numpy.asarray(mask))

    def of_block(block):
        mlp = block.mlp
        up = mlp.up.replace(kernel=change("up", mlp.up.kernel))
        down = mlp.down.replace(kernel=change("down", mlp.down.kernel))
        return block.replace(mlp=mlp.replace(up=up, down=down))

    lora = add_lora(rank=2, alpha=6, targets=("up_proj", "down_proj"))(llama)
    return lora.replace(blocks=tuple(map(of_block, lora.blocks)))


@pytest.mark.parametrize("form", ["tuple", "stack", "host"])
def test_adapters_are_added_and_masked(tmp_path, form):
    llama = tiny(2)
    model = adapted(llama, masked=("down",))
    step = store_adapters(tmp_path, model)
    given = {"tuple": lambda x: x, "stack": stack, "host": lambda x: jax.tree.map(np.asarray, x)}
    result = named_params(_single(step(given[form](llama))))
    before = named_params(llama)
    for name, leaf in before.items():
        layer = name.split(".")[1] if name.startswith("layers") else ""
        if not name.endswith(("up_proj.kernel", "down_proj.kernel")):
            np.testing.assert_array_equal(result[name], leaf)
            continue
        kernel = linear_kernels(model.blocks[int(layer)])[f"mlp.{name.split('.')[3]}"]
        lora = kernel.kernel if isinstance(kernel, Masked) else kernel
        a, b = (np.asarray(x, np.float64) for x in (lora.a, lora.b))
        wanted = np.asarray(leaf, np.float64) + 3.0 * a @ b
        if "down" in name:
            wanted[1::2] = 0
            assert not np.asarray(result[name])[1::2].any()
        np.testing.assert_allclose(result[name], wanted, atol=1e-5)
    # The recipe's JSON makes the same.
    again = named_params(from_step(step.steps[0], tmp_path)(llama))
    for name, leaf in named_params(step(llama)).items():
        np.testing.assert_array_equal(again[name], leaf)


def _single(llama):
    from jprune.llama.stack import unstack

    return unstack(llama)


@pytest.mark.parametrize("form", ["tuple", "stack"])
def test_weights_take_their_places(tmp_path, form):
    llama, (other,) = tiny(3), finetunes(tiny(3), "other")
    given = stack(llama) if form == "stack" else llama
    everything = store_weights(tmp_path, other, None, np.dtype("float32"))
    result = named_params(_single(everything(given)))
    for name, leaf in named_params(other).items():
        np.testing.assert_array_equal(result[name], leaf)
    last = store_weights(tmp_path, stack(other), 1, np.dtype("float32"))
    assert len(last.steps[0]["args"]["files"]) == 2  # a block, and what is in none
    result, old, new = (named_params(x) for x in (_single(last(given)), llama, other))
    for name, leaf in result.items():
        trained = name.startswith(("layers.2.", "norm", "lm_head"))
        np.testing.assert_array_equal(leaf, (new if trained else old)[name])


def test_weights_below_a_mask_are_zero_under_it(tmp_path):
    llama = tiny(1)
    kernel = llama.blocks[0].mlp.up.kernel
    mask = np.arange(kernel.size).reshape(kernel.shape) % 3 > 0
    digest = store(tmp_path, {}, {UP.format(0): np.ones(kernel.shape, np.float32)})
    mlp = llama.blocks[0].mlp
    up = mlp.up.replace(kernel=Masked(kernel, jax.numpy.asarray(mask)))
    masked = llama.replace(blocks=(llama.blocks[0].replace(mlp=mlp.replace(up=up)),))
    found = trained_weights([digest], arrays=str(tmp_path))(masked).blocks[0].mlp.up.kernel
    np.testing.assert_array_equal(found.kernel, mask.astype(np.float32))


def test_what_recipes_know_of_them(tmp_path):
    steps = [
        *lora_weights(["aa", "bb"], 2.0, arrays=str(tmp_path)).steps,
        *trained_weights(["cc"], arrays=str(tmp_path)).steps,
    ]
    assert stored_digests(steps) == ["aa", "bb", "cc"] and all(map(keeps_shapes, steps))
    assert [step["args"] for step in steps] == [
        {"blocks": ["aa", "bb"], "scale": 2.0},
        {"files": ["cc"]},
    ]


def test_adapters_that_do_not_fit(tmp_path):
    def lora(name, rows, columns):
        factors = {f"{name}.a": np.ones((rows, 2), np.float32)}
        factors |= {f"{name}.b": np.ones((2, columns), np.float32)}
        return lora_weights([store(tmp_path, {}, factors)], 1.0, arrays=str(tmp_path))

    with pytest.raises(InputError, match="has adapters of 1 blocks, the model has 2"):
        lora(UP.format(0), 32, 56)(tiny(2))
    with pytest.raises(
        InputError, match=r"adapter of layers.0.mlp.up_proj.kernel is \(31, 2\) by "
    ):
        lora(UP.format(0), 31, 56)(tiny(1))
    with pytest.raises(InputError, match=r"adapter for layers.7.mlp.up_proj.kernel, which the m"):
        lora(UP.format(7), 32, 56)(tiny(1))


def test_weights_that_do_not_fit(tmp_path):
    def weights(name, shape):
        digest = store(tmp_path, {}, {name: np.ones(shape, np.float32)})
        return trained_weights([digest], arrays=str(tmp_path))

    with pytest.raises(InputError, match=r"trained layers.0.mlp.up_proj.kernel is \(3, 3\), the m"):
        weights(UP.format(0), (3, 3))(tiny(1))
    with pytest.raises(InputError, match=r"trained layers.1.mlp.up_proj.kernel, which the model"):
        weights(UP.format(1), (32, 56))(tiny(1))
    with pytest.raises(InputError, match="are not in"):
        trained_weights(["0" * 64], arrays=str(tmp_path))(tiny(1))


def test_masks_in_the_file_of_an_adapter(tmp_path):
    """Also where the model that it is added to has other zeros."""
    llama, name = tiny(1), UP.format(0)
    mask = np.zeros((32, 56), bool)
    mask[:5] = True
    factors = {f"{name}.a": np.ones((32, 1), np.float32), f"{name}.b": np.ones((1, 56), np.float32)}
    digest = store(tmp_path, {name: pack(mask)}, factors)
    found = lora_weights([digest], 1.0, arrays=str(tmp_path))(llama).blocks[0].mlp.up.kernel
    assert not np.asarray(found)[5:].any() and np.asarray(found)[:5].all()
