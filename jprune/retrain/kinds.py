"""Kinds of retraining: which parameters of a pruned model train, and against what."""

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType

from jprune.core.errors import InputError
from jprune.llama.model import Llama, Run
from jprune.llama.stack import stack
from jprune.retrain.split import ADAPTERS, Where

LORA, FULL, LAST = "lora", "full", "last_k"


@dataclasses.dataclass(frozen=True)
class Kind:
    """A way to train.

    Attributes:
      parameters: which train: those of adapters (lora), all (full), or those of the last blocks,
        the final norm and the head (last_k); None where it is left to choose lora or full.
      distils: whether the unpruned model is a teacher; else the text is.
    """

    parameters: str | None
    distils: bool = False


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "lora": Kind(LORA),
        "full": Kind(FULL),
        "last_k": Kind(LAST),
        "distill": Kind(None, distils=True),
    }
)


def trainable(
    llama: Llama, parameters: str, last: int = 1, *, consume: bool = False
) -> tuple[Llama, Where]:
    """The model in the form that `train` takes, and the names of what trains in it.

    Args:
      llama: the model; for `lora` with its adapters.
      parameters: "lora", "full" or "last_k".
      last: how many of the last blocks train with last_k, beside the final norm and the head. A
        head that is tied to the embeddings stays as it is, as they do.
      consume: `llama` is given up where the result is a copy.

    Raises:
      InputError: the model has fewer blocks.
    """
    if parameters == LAST:
        return last_blocks(llama, last, consume)
    return llama, ADAPTERS if parameters == LORA else "**"


def last_blocks(llama: Llama, last: int, consume: bool = False) -> tuple[Llama, Where]:
    """A stack in which the last blocks have runs of their own, and the names of what trains."""
    if not 1 <= last <= llama.num_layers:
        raise InputError(
            f"the last {last} blocks cannot train: the model has {llama.num_layers}; "
            "give a smaller last_k"
        )
    first = llama.num_layers - last
    stacked = stack(llama, consume=consume, cuts=(first,))
    names, seen = ["norm.*", "lm_head.**"], 0
    for index, part in enumerate(stacked.blocks):
        names += [f"layers.{index}.**"] * (seen >= first)
        seen += len(part) if isinstance(part, Run) else 1
    return stacked, tuple(names)
