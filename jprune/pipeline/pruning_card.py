"""The model card of what a pruning run made."""

from collections.abc import Mapping
from typing import Any

from jprune.checkpoints import model_card
from jprune.checkpoints.hf_export import zeroed_sublayers
from jprune.llama.model import Llama
from jprune.llama.stack import layers_of

# The states of the model whose perplexities a run has.
PHASES = ("before", "after", "retrained")


def pruning_card(
    folder: Any,
    llama: Llama,
    recipe: Mapping[str, Any],
    values: Mapping[str, Any],
    sparsity: Mapping[str, Any] | None = None,
) -> str:
    """The text of README.md.

    Args:
      folder: of the model.
      llama: the model, or one of its shapes.
      recipe: how it was made.
      values: what the stages `evaluate-PHASE` returned.
      sparsity: what run.json says of it.
    """
    from jprune.report import parse_sparsity, sparsity_notes

    return model_card(
        str(folder),
        llama,
        recipe=recipe,
        figures=[
            {"label": when, "perplexity": values[f"evaluate-{when}"]}
            for when in PHASES
            if f"evaluate-{when}" in values
        ],
        notes=zeroed_sublayers([b for b in layers_of(llama) if b.attn or b.mlp]),
        sparsity=sparsity_notes(parse_sparsity(sparsity or {})),
    )
