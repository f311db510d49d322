"""What the linears of a block read: sums over the calibration windows, one block at a time."""

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jprune.core.errors import InputError, unknown
from jprune.core.mesh import paced, put_batch
from jprune.core.processes import start_copying, to_host
from jprune.core.progress import progress
from jprune.evaluate.batches import window_batch_size
from jprune.llama.blockwise import advance, blocks, ends, on_device, start
from jprune.llama.forward import Context, apply_block
from jprune.llama.kernels import ArrayLike
from jprune.llama.model import Block, Llama

# What is kept on the host between steps: nothing, the residual streams, the results, or both.
OFFLOADS = ("none", "hidden", "weights", "all")
Offload = str | Collection[str]

# Given a block's number, the block and what its linears read: the block to go on with.
Visit = Callable[[int, Block, "Inputs | None"], Block]


@struct.dataclass
class Inputs:
    """Sums over the calibration windows, by the names of `jprune.llama.linears.INPUT_OF`.

    Attributes:
      squares: s, for each input j the mean over windows of the sum over tokens of x_j^2 [in].
      hessians: H = 2 / windows * sum over windows of X^T X [in, in]; empty if not asked for.
    """

    squares: dict[str, Float[Array, " in"]]
    hessians: dict[str, Float[Array, "in in"]]


def stream(
    llama: Llama,
    ids: Int[np.ndarray, "windows length"] | None,
    visit: Visit,
    *,
    hessian: bool = False,
    reads_only: bool = False,
    done: Sequence[Block] = (),
    batch_size: int | None = None,
    offload: Offload = "none",
    label: str = "blocks",
) -> None:
    """Goes through the blocks with all windows; what `visit` makes of a block feeds the next.

    At any time the device has the residual streams of all windows and one block's working set; a
    model on the host (of NumPy arrays) adds two of its blocks to that, the one at work and the next
    on its way. What `visit` returns is run and let go.

    Args:
      llama: the model.
      ids: calibration windows; None where none are needed, and `visit` gets no sums.
      visit: see `Visit`; called for the blocks that are not `done`.
      hessian: whether Hessians are wanted.
      reads_only: `visit` gives every block back as it was: a second pass over it is saved.
      done: what the first blocks were made earlier; they are only run.
      batch_size: windows per step; by default what suits the device.
      offload: with "hidden" (or "all") the residual streams are on the host, but for those of one
        step; see `offloaded`.
      label: of the progress.

    Raises:
      InputError: residual streams that are not finite, or an unknown `offload`.
    """
    streams = _Streams("hidden" in offloaded(offload))
    weights: list[np.ndarray] = []
    ctx: Context | None = None
    if ids is not None:
        weights, ctx = _begin(llama, ids, batch_size or window_batch_size(ids.shape), streams)
    source = blocks(llama, done)
    block, last = next(source, None), llama.num_layers - 1
    for index in progress(range(llama.num_layers), label, unit="block"):
        sums, finite, reached = None, None, streams.newest()
        # The next block is on its way to the device while this one runs; where this one is to be
        # changed, only then, so that no more than two are there at any time.
        if reads_only:
            following = next(source, None)
        if index >= len(done):
            for at, weight in enumerate(weights):
                after, sums = paced(
                    _gather(block, streams[at], weight, ctx, sums, hessian, reads_only)
                )
                if reads_only:
                    streams[at] = after
            finite = _finite(sums) if weights else None
            block = visit(index, block, sums)
            sums = None
        if not reads_only:
            following = next(source, None)
        if index < last and not (reads_only and index >= len(done)):
            for at in range(len(weights)):
                streams[at] = paced(advance(block, streams[at], ctx))
        # The host is at most one block ahead of the device, whose next work is queued by now.
        jax.block_until_ready(reached)
        _check(finite, index)
        block = following


def _begin(
    llama: Llama, ids: Int[np.ndarray, "windows length"], size: int, streams: "_Streams"
) -> tuple[list[Float[np.ndarray, " batch"]], Context]:
    """Fills `streams` with what the first block reads; gives each batch's weights."""
    front = on_device(ends(llama).replace(final_norm=None, lm_head=None))
    weights = []
    for batch, weight in _weighted(ids, size):
        h, ctx = start(front, put_batch(batch))
        streams.add(h)
        weights.append(weight)
    return weights, ctx


def offloaded(offload: Offload) -> frozenset[str]:
    """What an `offload` keeps on the host: "hidden" the residual streams, "weights" the results.

    Args:
      offload: one of `OFFLOADS`, or several; "none" is neither and "all" is both.

    Raises:
      InputError: something else.
    """
    names = (offload,) if isinstance(offload, str) else tuple(offload)
    for name in names:
        if name not in OFFLOADS:
            raise unknown("value of offload", name, OFFLOADS)
    both = frozenset(("hidden", "weights"))
    return both if "all" in names else both & frozenset(names)


class _Streams:
    """The residual streams of all batches, on the device or, but for the newest, on the host."""

    def __init__(self, on_host: bool):
        self._on_host = on_host
        self._streams: list[ArrayLike] = []
        self._at = -1

    def __getitem__(self, at: int) -> ArrayLike:
        h = self._streams[at]
        return put_batch(h) if isinstance(h, np.ndarray) else h

    def __setitem__(self, at: int, h: Array) -> None:
        self._streams[at] = h
        if self._on_host:
            start_copying(h)
            # The one before: its copy ran beside this one's step.
            if self._at not in (-1, at):
                self._streams[self._at] = to_host(self._streams[self._at])
        self._at = at

    def add(self, h: Array) -> None:
        self._streams.append(h)
        self[len(self._streams) - 1] = h

    def newest(self) -> ArrayLike | None:
        return self._streams[self._at] if self._streams else None


def _weighted(
    ids: Int[np.ndarray, "windows length"], size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Batches of `size` windows and each window's share in a mean over all; fillings have none."""
    padding = -len(ids) % size
    filled = np.pad(ids, ((0, padding), (0, 0)), mode="edge").astype(np.int32)
    weight = np.pad(np.full(len(ids), 1 / len(ids), np.float32), (0, padding))
    for first in range(0, len(filled), size):
        yield filled[first : first + size], weight[first : first + size]


@partial(jax.jit, static_argnames=("hessian", "outputs"), donate_argnames="sums")
def _gather(
    block: Block,
    h: Float[Array, "batch length hidden"],
    weight: Float[Array, " batch"],
    ctx: Context,
    sums: Inputs | None,
    hessian: bool,
    outputs: bool,
) -> tuple[Float[Array, "batch length hidden"] | None, Inputs]:
    """The sums with one batch more, and the residual stream after the block if it is wanted."""
    squares, hessians = {}, {}

    def tap(name, x):
        wide = x.astype(jnp.float32)
        squares[name] = jnp.einsum("blj,b->j", jnp.square(wide), weight, precision="highest")
        if hessian:
            scaled = (x * jnp.sqrt(2 * weight)[:, None, None].astype(x.dtype)).reshape(
                -1, x.shape[-1]
            )
            hessians[name] = jnp.matmul(
                scaled.T,
                scaled,
                precision="highest" if x.dtype == jnp.float32 else None,
                preferred_element_type=jnp.float32,
            )

    after = apply_block(block, h, ctx, tap=tap)
    found = Inputs(squares, hessians)
    total = found if sums is None else jax.tree.map(jnp.add, sums, found)
    return after if outputs else None, total


@jax.jit
def _finite(sums: Inputs) -> dict[str, Bool[Array, ""]]:
    return {name: jnp.isfinite(s).all() for name, s in sums.squares.items()}


def _check(finite: dict[str, Bool[Array, ""]] | None, index: int) -> None:
    """Raises InputError if not all sums of a block are finite; waits for them."""
    for name, is_finite in jax.device_get(finite or {}).items():
        if not is_finite:
            raise InputError(
                f"the inputs of {name} in block {index} are not finite on the calibration data; "
                "try --dtype=float32"
            )
