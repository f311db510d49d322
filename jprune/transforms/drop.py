"""Depth pruning: models without some of their blocks or sublayers."""

from collections.abc import Callable, Iterable

from jprune.core.errors import InputError
from jprune.llama.model import Block, Llama, Run
from jprune.llama.stack import stack, take_layers, unstack
from jprune.scores.units import present
from jprune.transforms.transform import Transform, chain, transform


@transform
def drop_blocks(blocks: Iterable[int]) -> Callable[[Llama], Llama]:
    """Removes whole blocks.

    Reference: Kim et al., Shortened LLaMA (arXiv 2402.02834), section 2.

    Args:
      blocks: indices in the model at this step, from 0.

    Raises:
      InputError: an index is no block of the model, or no block would be left.
    """
    dropped = _indices(blocks, "block")

    def apply(llama: Llama) -> Llama:
        _check(dropped, llama, "block")
        if len(dropped) == llama.num_layers:
            raise InputError(
                f"removing all {llama.num_layers} blocks leaves no model; keep at least one"
            )
        kept: list[Block | Run] = []
        first = 0
        for part in llama.blocks:
            size = len(part) if isinstance(part, Run) else 1
            local = [index for index in range(size) if first + index not in dropped]
            first += size
            if len(local) == size:
                kept.append(part)
            elif local and isinstance(part, Run):
                kept.append(take_layers(part, local))
        return _something_left(llama.replace(blocks=tuple(kept)))

    return apply


@transform
def drop_sublayers(
    attention: Iterable[int] = (), mlp: Iterable[int] = ()
) -> Callable[[Llama], Llama]:
    """Removes single attention and MLP sublayers, each with its norm; the blocks stay.

    A block that loses both does nothing any more; `drop_blocks` removes it for good.

    Reference: Kim et al., Shortened LLaMA (arXiv 2402.02834), section 2; Zhong et al., BlockPruner
    (arXiv 2406.10594), section 3.

    Args:
      attention: layers whose attention goes, indices in the model at this step.
      mlp: layers whose MLP goes.

    Raises:
      InputError: an index is no layer of the model, or nothing of the model would be left.
    """
    no_attention = _indices(attention, "attention")
    no_mlp = _indices(mlp, "MLP")

    def apply(llama: Llama) -> Llama:
        _check(no_attention, llama, "attention")
        _check(no_mlp, llama, "MLP")
        blocks = []
        for index, block in enumerate(unstack(llama).blocks):
            if index in no_attention:
                block = block.replace(attn_norm=None, attn=None)
            if index in no_mlp:
                block = block.replace(mlp_norm=None, mlp=None)
            blocks.append(block)
        result = _something_left(llama.replace(blocks=tuple(blocks)))
        stacked = any(isinstance(part, Run) for part in llama.blocks)
        return stack(result) if stacked else result

    return apply


def drop_units(units: Iterable[tuple[int, str]]) -> Transform:
    """Removes (layer, part) units, part one of 'block', 'attention' and 'mlp'.

    All indices refer to the model before anything is removed. A block both of whose sublayers are
    named goes as a whole. The transform of scores: `drop_units(select(scores, 4))`.
    """
    layers: dict[str, set[int]] = {"block": set(), "attention": set(), "mlp": set()}
    for layer, part in units:
        layers[part].add(layer)
    whole = layers["block"] | (layers["attention"] & layers["mlp"])
    attention, mlp = sorted(layers["attention"] - whole), sorted(layers["mlp"] - whole)
    steps = []
    if attention or mlp:
        steps.append(drop_sublayers(attention=attention, mlp=mlp))
    if whole:
        steps.append(drop_blocks(sorted(whole)))
    return chain(*steps)


def removed_units(before: Llama, after: Llama) -> tuple[tuple[int, str], ...]:
    """What `after` lacks of `before`, as (layer, part) with indices into `before`.

    Blocks are matched by their origins, which every transform keeps.
    """
    left = dict(zip(after.origins, present(after), strict=True))
    gone: list[tuple[int, str]] = []
    for layer, (origin, had) in enumerate(zip(before.origins, present(before), strict=True)):
        if origin not in left:
            gone.append((layer, "block"))
            continue
        for part, was, still in zip(("attention", "mlp"), had, left[origin], strict=True):
            if was and not still:
                gone.append((layer, part))
    return tuple(gone)


def _indices(values: Iterable[int], what: str) -> frozenset[int]:
    found = [int(value) for value in values]
    if len(set(found)) < len(found):
        raise InputError(f"{what} indices {found} name one twice")
    return frozenset(found)


def _something_left(llama: Llama) -> Llama:
    if not any(map(any, present(llama))):
        raise InputError("removing every sublayer leaves no model; keep at least one")
    return llama


def _check(indices: frozenset[int], llama: Llama, what: str) -> None:
    wrong = sorted(index for index in indices if not 0 <= index < llama.num_layers)
    if wrong:
        raise InputError(
            f"there is no {what} {wrong[0]}: the model has {llama.num_layers} blocks, "
            f"0 to {llama.num_layers - 1}"
        )
