"""One pruning pass of a run: masks, or heads and neurons, kept on disk block by block."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jprune.checkpoints.mask_files import fetch, keep_only, store
from jprune.core.errors import InputError
from jprune.core.files import PathLike
from jprune.core.processes import on_writer, to_host, together
from jprune.core.progress import log
from jprune.llama.linears import linear_kernels
from jprune.llama.masks import Mask, sparsity
from jprune.llama.model import Block, Llama
from jprune.llama.stack import single_blocks
from jprune.pipeline.pruning_config import strings
from jprune.pipeline.resumable import Progress
from jprune.pipeline.sparse_config import WIDTH, SparseConfig
from jprune.pipeline.sparse_figures import linear_weights
from jprune.scores import choose_widths, sparsify
from jprune.scores.sparsify import NEW_KERNELS
from jprune.transforms import Transform, narrow, sparse_weights
from jprune.transforms.sparse import mask_block

Ids = Int[np.ndarray, "windows length"]
Densities = Float[np.ndarray, " blocks"]


def prune(
    llama: Llama,
    config: SparseConfig,
    ids: Ids | None,
    densities: Densities,
    patterns: Sequence[str],
) -> tuple[Llama, float]:
    """The pruned model, of which nothing is kept, and the share of weights that is gone."""
    if config.criterion == WIDTH:
        assert ids is not None  # width reads data
        widths = choose_widths(
            llama, ids, density=densities, offload=config.offload, **width_options(config)
        )
        narrowed = narrow(**widths.to_json())(llama)
        kept = linear_weights(narrowed) / linear_weights(llama)
        return narrowed, 1 - kept
    result = sparsify(
        llama, config.criterion, ids, density=densities, pattern=patterns, offload=config.offload
    )
    return result.llama, sparsity(result.masks)


def mask_pass(
    llama: Llama,
    config: SparseConfig,
    ids: Ids | None,
    densities: Densities,
    patterns: Sequence[str],
    folder: PathLike,
    key: str,
    keep: Sequence[str] = (),
) -> tuple[Transform, dict[str, Mask]]:
    """Masks of every block; each block's are in a file of `folder` before the next but one begins.

    Args:
      llama: the model.
      config: criterion and offload count.
      ids: calibration windows.
      densities: of the blocks.
      patterns: of the blocks.
      folder: of the files; others than those of this pass are removed when it ends.
      key: what the masks depend on: a pass that was stopped under the same goes on.
      keep: SHA-256 of further files that stay.

    Returns:
      The step of the recipe, and all masks.
    """
    progress = Progress(folder, key)
    new_kernels = config.criterion in NEW_KERNELS
    progress.keep(on_writer(lambda: _whole(progress, folder)))  # one decides for all processes
    done = dict(together(lambda: list(_restored(llama, progress, folder))))
    if done:
        log.info("%d of %d blocks were pruned before", len(done), llama.num_layers)

    def after(index: int, block: Block, masks: Mapping[str, Mask]) -> None:
        full = {name: f"layers.{index}.{name}.kernel" for name in masks}
        named = {full[name]: mask for name, mask in masks.items()}
        kernels = {
            full[name]: to_host(kernel)
            for name, kernel in linear_kernels(block).items()
            if new_kernels
        }
        progress.add(store(folder, named, kernels))

    result = sparsify(
        llama,
        config.criterion,
        ids,
        density=densities,
        pattern=patterns,
        done=done,
        after=after,
        offload=config.offload,
    )
    on_writer(lambda: keep_only(folder, [*progress.entries, *keep]))
    adjusted = {"adjusted": True} if new_kernels else {}
    return sparse_weights(progress.entries, arrays=str(folder), **adjusted), result.masks


def width_pass(
    llama: Llama,
    config: SparseConfig,
    ids: Ids,
    densities: Densities,
    folder: PathLike,
    key: str,
    keep: Sequence[str] = (),
) -> Transform:
    """The heads and neurons that stay in every block; see `mask_pass`.

    Returns:
      The step of the recipe.
    """
    progress = Progress(folder, key)
    kept = [(_indices(heads), _indices(neurons)) for heads, neurons in progress.entries]
    widths = choose_widths(
        llama,
        ids,
        density=densities,
        done=kept,
        after=lambda index, heads, neurons: progress.add([heads, neurons]),
        offload=config.offload,
        **width_options(config),
    )
    on_writer(lambda: keep_only(folder, keep))
    return narrow(**widths.to_json())


def width_options(config: SparseConfig) -> dict[str, Any]:
    """The options of `jprune.scores.choose_widths`."""
    options = dict(config.options)
    if parts := strings(options.pop("parts", ())):
        options["parts"] = parts
    return options


def _indices(recorded: list[int] | None) -> tuple[int, ...] | None:
    return None if recorded is None else tuple(recorded)


def _whole(progress: Progress, folder: PathLike) -> int:
    """How many of the first blocks have files that are there and undamaged."""
    for index, digest in enumerate(progress.entries):
        try:
            fetch(folder, digest)
        except InputError as error:
            log.warning("%s; block %d is pruned again", error, index)
            return index
    return len(progress.entries)


def _restored(
    llama: Llama, progress: Progress, folder: PathLike
) -> Iterator[tuple[int, tuple[Block, dict[str, Mask]]]]:
    """The first blocks as an earlier pass pruned them, by number."""
    for index, (digest, block) in enumerate(
        zip(progress.entries, single_blocks(llama), strict=False)
    ):
        masks, kernels = fetch(folder, digest)
        names = {name: f"layers.{index}.{name}.kernel" for name in linear_kernels(block)}
        pruned = mask_block(block, index, masks, kernels)
        yield index, (pruned, {name: masks[full] for name, full in names.items()})
