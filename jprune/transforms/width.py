"""Width pruning: models some of whose blocks have fewer heads and neurons."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from jprune.core.errors import InputError
from jprune.llama.model import Llama, Run
from jprune.llama.stack import single_blocks, stack
from jprune.llama.widths import Width, narrow_block, widths
from jprune.transforms.transform import transform

Kept = list[list[int] | None] | None


@transform
def narrow(
    heads: Iterable[Any] | None = None,
    neurons: Iterable[Any] | None = None,
) -> Callable[[Llama], Llama]:
    """Keeps some heads and some neurons of every block, in their order.

    A key-value head goes with the query heads that it serves: their columns of the kernels and
    biases of q, k and v, and their rows of o. A neuron is a column of gate and up and a row of
    down. What `jprune.scores.choose_widths` decides is applied by `narrow(**widths.to_json())`.

    Reference: Ma et al., LLM-Pruner (arXiv 2305.11627), section 3.1: what goes together.

    Args:
      heads: for each block of the model at this step, a list of the key-value heads that stay, from
        0; None where all stay, and where there is no attention. None in place of the lists: all.
      neurons: the same of the neurons of the feed-forward networks.

    Raises:
      InputError: not one entry per block, an index that the block does not have or that comes
        twice, an entry that keeps nothing, or one for a sublayer that is not there.
    """
    kept_heads, kept_neurons = _entries(heads, "heads"), _entries(neurons, "neurons")

    def apply(llama: Llama) -> Llama:
        found = widths(llama)
        all_heads = _checked(kept_heads, found, "heads")
        all_neurons = _checked(kept_neurons, found, "neurons")
        changed = [
            (one is not None and len(one) < width.heads)
            or (other is not None and len(other) < width.neurons)
            for width, one, other in zip(found, all_heads, all_neurons, strict=True)
        ]
        if not any(changed):
            return llama
        blocks = tuple(
            narrow_block(block, one, other, llama.config.head_dim)
            for block, one, other in zip(single_blocks(llama), all_heads, all_neurons, strict=True)
        )
        result = llama.replace(blocks=blocks)
        stacked = any(isinstance(part, Run) for part in llama.blocks)
        return stack(result) if stacked else result

    return apply


def _entries(given: Any, what: str) -> Kept:
    """The lists of a recipe, each in rising order."""
    if given is None:
        return None
    if not isinstance(given, list) or not all(x is None or isinstance(x, list) for x in given):
        raise InputError(
            f"{what} is a list with, for each block, a list of the {what} that stay, or null"
        )
    return [None if one is None else _rising(one, what, at) for at, one in enumerate(given)]


def _rising(indices: list, what: str, at: int) -> list[int]:
    wrong = [index for index in indices if type(index) is not int]
    if wrong:
        raise InputError(f"{what} of block {at} are indices, not {wrong[0]!r}")
    if not indices:
        raise InputError(
            f"block {at} would keep no {what}; keep at least one, or use drop_sublayers"
        )
    if len(set(indices)) < len(indices):
        raise InputError(f"{what} of block {at} name one twice")
    return sorted(indices)


def _checked(kept: Kept, found: Sequence[Width], what: str) -> list[list[int] | None]:
    """What stays in each block, which is known to be there."""
    if kept is None:
        return [None] * len(found)
    if len(kept) != len(found):
        raise InputError(
            f"{what} has {len(kept)} entries for a model of {len(found)} blocks; give one for each"
        )
    for at, (width, one) in enumerate(zip(found, kept, strict=True)):
        has = getattr(width, what)
        if one is None:
            continue
        if not has:
            raise InputError(f"block {at} has no {what}: that sublayer is removed; give null")
        if one[0] < 0 or one[-1] >= has:
            wrong = one[0] if one[0] < 0 else one[-1]
            unit = "key-value heads" if what == "heads" else what
            raise InputError(f"block {at} has {has} {unit}, 0 to {has - 1}; there is no {wrong}")
    return kept
