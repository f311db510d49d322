import json
import os
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jprune.checkpoints.hf_import import import_huggingface
from jprune.checkpoints.orbax import restore_orbax, save_orbax
from jprune.core.errors import InputError, Interrupted
from jprune.llama.kernels import Lora, Masked
from jprune.llama.stack import stack
from jprune.pipeline import interruptible


@pytest.fixture
def llama(tmp_path, tiny, write):
    config, tensors = tiny(eos_token_id=[2, 3], mlp_bias=True)
    return import_huggingface(write(tmp_path / "base", config, tensors))


def identical(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)  # statics too: config, origins, scales
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype and x.shape == y.shape
        assert np.asarray(x).tobytes() == np.asarray(y).tobytes()


def uneven(llama):
    """Removed sublayers, an empty block, a narrow block, adapters, masks, and no block 2 twice."""
    first, second, third = llama.blocks
    neurons = third.mlp.replace(
        gate=third.mlp.gate.replace(kernel=third.mlp.gate.kernel[:, :5]),
        up=third.mlp.up.replace(kernel=third.mlp.up.kernel[:, :5]),
        down=third.mlp.down.replace(kernel=third.mlp.down.kernel[:5]),
    )
    lora = Lora(first.attn.q.kernel, jnp.ones((16, 2)), jnp.zeros((2, 16)), 2.0, 0.05)
    masked = Masked(lora, jnp.arange(256).reshape(16, 16) % 3 == 0)
    plain = Masked(first.mlp.up.kernel, jnp.arange(384).reshape(16, 24) % 5 == 0)
    wrapped = first.replace(
        attn=first.attn.replace(
            q=first.attn.q.replace(kernel=masked), o=first.attn.o.replace(kernel=lora)
        ),
        mlp=first.mlp.replace(up=first.mlp.up.replace(kernel=plain)),
    )
    return llama.replace(
        blocks=(
            wrapped,
            second.replace(attn=None, attn_norm=None),
            second.replace(attn=None, attn_norm=None, mlp=None, mlp_norm=None),
            third.replace(mlp=neurons),
            third.replace(mlp=None, mlp_norm=None),
        )
    )


@pytest.mark.parametrize("change", [lambda x: x, uneven, stack], ids=["plain", "uneven", "stacked"])
def test_round_trip_of_the_true_structure(tmp_path, llama, change):
    model = change(llama)
    save_orbax(tmp_path / "o", model)
    identical(restore_orbax(tmp_path / "o", "checkpoint"), model)


def test_runs_of_uneven_blocks(tmp_path, llama):
    model = stack(uneven(llama).replace(blocks=uneven(llama).blocks[1:2] * 2 + llama.blocks))
    save_orbax(tmp_path / "o", model)
    identical(restore_orbax(tmp_path / "o", "checkpoint"), model)


def test_an_empty_array(tmp_path, llama):
    mlp = llama.blocks[0].mlp
    none = mlp.replace(
        gate=mlp.gate.replace(kernel=mlp.gate.kernel[:, :0], bias=mlp.gate.bias[:0]),
        up=mlp.up.replace(kernel=mlp.up.kernel[:, :0], bias=mlp.up.bias[:0]),
        down=mlp.down.replace(kernel=mlp.down.kernel[:0]),
    )
    model = llama.replace(blocks=(llama.blocks[0].replace(mlp=none),))
    save_orbax(tmp_path / "o", model)
    identical(restore_orbax(tmp_path / "o"), model)


def test_dtypes(tmp_path, llama, bf16):
    narrow = jax.tree.map(lambda x: x.astype(jnp.bfloat16), llama)
    mask = Masked(narrow.lm_head.kernel, narrow.lm_head.kernel > 0)
    narrow = narrow.replace(lm_head=narrow.lm_head.replace(kernel=mask))
    save_orbax(tmp_path / "o", narrow)
    identical(restore_orbax(tmp_path / "o", "checkpoint"), narrow)
    wide = restore_orbax(tmp_path / "o")  # float32 on CPU
    assert wide.lm_head.kernel.mask.dtype == bool
    assert wide.dtype == wide.lm_head.kernel.kernel.dtype == np.float32
    assert (np.asarray(wide.embed) == np.asarray(narrow.embed).astype(np.float32)).all()


def test_restores_under_other_shardings(tmp_path, llama):
    save_orbax(tmp_path / "o", llama)
    mesh = jax.make_mesh((1,), ("fsdp",))
    spread = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
    again = restore_orbax(tmp_path / "o", shardings=spread)
    assert {leaf.sharding for leaf in jax.tree.leaves(again)} == {spread}
    identical(again, llama)
    one = restore_orbax(tmp_path / "o", shardings={"norm.weight": spread})
    assert one.final_norm.sharding == spread != one.embed.sharding


def test_orbax_alone_restores_the_arrays_by_name(tmp_path, llama):
    import orbax.checkpoint as ocp

    save_orbax(tmp_path / "o", llama)
    with ocp.StandardCheckpointer() as checkpointer:
        tree = checkpointer.restore(tmp_path / "o" / "arrays")
    found = tree["layers"]["2"]["self_attn"]["q_proj"]["kernel"]
    assert (np.asarray(found) == np.asarray(llama.blocks[2].attn.q.kernel)).all()


def test_a_failure_half_way_leaves_the_old_checkpoint(tmp_path, llama, monkeypatch):
    save_orbax(tmp_path / "o", llama)

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("jprune.checkpoints.orbax.write_companions", killed)
    for name in ("o", "new"):
        with pytest.raises(KeyboardInterrupt):
            save_orbax(tmp_path / name, llama.replace(blocks=()))
    assert {f.name for f in tmp_path.iterdir()} == {"base", "o"}
    identical(restore_orbax(tmp_path / "o"), llama)


def test_a_checkpoint_is_replaced(tmp_path, llama):
    save_orbax(tmp_path / "o", llama)
    save_orbax(tmp_path / "o", llama.replace(blocks=llama.blocks[:1]))
    assert restore_orbax(tmp_path / "o").num_layers == 1


def largest(folder):
    return max(
        (f for f in folder.glob("arrays/**/*") if f.is_file()), key=lambda f: f.stat().st_size
    )


def edit(folder, **changes):
    file = folder / "jprune.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


DEFECTS = {
    "no manifest": (lambda f: (f / "jprune.json").unlink(), "half-written"),
    "foreign": (
        lambda f: [(f / "jprune.json").unlink(), shutil.rmtree(f / "arrays")],
        "not written by jprune",
    ),
    "manifest cut": (
        lambda f: (f / "jprune.json").write_text((f / "jprune.json").read_text()[:99]),
        "jprune.json is not valid JSON",
    ),
    "newer": (lambda f: edit(f, version=99), "has version 99; this jprune reads version 1"),
    "edited": (lambda f: edit(f, blocks=[]), "jprune.json is corrupt: it is not as it was"),
    "no version": (lambda f: (f / "jprune.json").write_text("[]"), "has version None"),
    "no arrays": (lambda f: shutil.rmtree(f / "arrays"), "is damaged: arrays/.* is missing"),
    "truncated": (
        lambda f: largest(f).write_bytes(largest(f).read_bytes()[:-9]),
        "is damaged: arrays/.* has .* bytes instead of",
    ),
    "flipped": (
        lambda f: largest(f).write_bytes(bytes([*largest(f).read_bytes()[:-1], 7])),
        "is damaged: arrays/.* is not as it was written",
    ),
    "metadata": (
        lambda f: (f / "arrays" / "_METADATA").write_bytes(
            b"{" * (f / "arrays" / "_METADATA").stat().st_size
        ),
        "is damaged: arrays/_METADATA is not as it was written",
    ),
}


def test_what_orbax_itself_refuses(tmp_path, llama, monkeypatch):
    import orbax.checkpoint as ocp

    def refuse(*args):
        raise ValueError("DATA_LOSS\nand much more")

    save_orbax(tmp_path / "o", llama)
    monkeypatch.setattr(ocp.StandardCheckpointer, "restore", refuse)
    with pytest.raises(InputError, match="is damaged: cannot restore its arrays: DATA_LOSS$"):
        restore_orbax(tmp_path / "o")


def test_sigterm_in_a_restore_is_no_damage(tmp_path, llama, monkeypatch):
    import asyncio

    import orbax.checkpoint as ocp

    async def stopped():
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(30)

    save_orbax(tmp_path / "o", llama)
    monkeypatch.setattr(ocp.StandardCheckpointer, "restore", lambda *_: asyncio.run(stopped()))
    with pytest.raises(Interrupted), interruptible():
        restore_orbax(tmp_path / "o")


@pytest.mark.parametrize(
    "error",
    [
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes"),
        ValueError("Error restoring\nRESOURCE_EXHAUSTED: Out of memory"),
        MemoryError(),
    ],
)
def test_out_of_memory_in_a_restore_is_no_damage(tmp_path, llama, monkeypatch, error):
    import orbax.checkpoint as ocp

    def full(*args):
        raise error

    save_orbax(tmp_path / "o", llama)
    monkeypatch.setattr(ocp.StandardCheckpointer, "restore", full)
    with pytest.raises(InputError, match="^no room for o: .*; use a smaller dtype") as caught:
        restore_orbax(tmp_path / "o")
    assert "\n" not in str(caught.value) and "damaged" not in str(caught.value)


@pytest.mark.parametrize("defect", DEFECTS)
def test_every_defect_is_one_clear_line(tmp_path, llama, defect):
    save_orbax(tmp_path / "o", llama)
    damage, message = DEFECTS[defect]
    damage(tmp_path / "o")
    with pytest.raises(InputError, match=message) as caught:
        restore_orbax(tmp_path / "o")
    assert "\n" not in str(caught.value) and str(tmp_path / "o") in str(caught.value)
