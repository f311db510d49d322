"""Llama -> Llama: pure functions made by named constructors, composed with `chain`."""

from jprune.transforms.drop import drop_blocks, drop_sublayers, drop_units, removed_units
from jprune.transforms.recipe import Recipe
from jprune.transforms.transform import Transform, chain, from_step, transform

__all__ = [
    "Recipe",
    "Transform",
    "chain",
    "drop_blocks",
    "drop_sublayers",
    "drop_units",
    "from_step",
    "removed_units",
    "transform",
]
