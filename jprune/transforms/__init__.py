"""Llama -> Llama: pure functions made by named constructors, composed with `chain`."""

from jprune.transforms.drop import drop_blocks, drop_sublayers, drop_units, removed_units
from jprune.transforms.recipe import Recipe
from jprune.transforms.sparse import apply_masks, sparse_weights
from jprune.transforms.transform import Transform, chain, from_step, transform
from jprune.transforms.width import narrow

__all__ = [
    "Recipe",
    "Transform",
    "apply_masks",
    "chain",
    "drop_blocks",
    "drop_sublayers",
    "drop_units",
    "from_step",
    "narrow",
    "removed_units",
    "sparse_weights",
    "transform",
]
