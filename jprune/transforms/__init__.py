"""Llama -> Llama: pure functions made by named constructors, composed with `chain`."""

from jprune.transforms.drop import drop_blocks, drop_sublayers, drop_units, removed_units
from jprune.transforms.lora import add_lora, fold_lora
from jprune.transforms.merge import merge, merge_models
from jprune.transforms.merge_registry import METHODS, Method, find_method
from jprune.transforms.mergeable import check_mergeable
from jprune.transforms.recipe import Recipe
from jprune.transforms.sparse import apply_masks, sparse_weights
from jprune.transforms.stitch import stitch, stitch_models
from jprune.transforms.stitch_plan import Coefficients, StitchLayer, StitchPlan, coefficients
from jprune.transforms.trained import lora_weights, trained_weights
from jprune.transforms.transform import Sources, Transform, chain, from_step, transform
from jprune.transforms.width import narrow

__all__ = [
    "METHODS",
    "Coefficients",
    "Method",
    "Recipe",
    "Sources",
    "StitchLayer",
    "StitchPlan",
    "Transform",
    "add_lora",
    "apply_masks",
    "chain",
    "check_mergeable",
    "coefficients",
    "drop_blocks",
    "drop_sublayers",
    "drop_units",
    "find_method",
    "fold_lora",
    "from_step",
    "lora_weights",
    "merge",
    "merge_models",
    "narrow",
    "removed_units",
    "sparse_weights",
    "stitch",
    "stitch_models",
    "trained_weights",
    "transform",
]
