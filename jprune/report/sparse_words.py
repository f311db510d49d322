"""A sparse run in words: its method, and what its zeros do and do not save."""

from jprune.report import tables
from jprune.report.sparsity import Sparsity


def sparsity_text(sparsity: Sparsity) -> str:
    """The method, for example: sparsity 70% by wanda, dlp allocation, unstructured."""
    target = tables.rate(sparsity.target)
    if sparsity.is_width:
        return f"width pruning by {target}, {sparsity.allocation} allocation"
    return f"sparsity {target} by {settings_words(sparsity)}"


def settings_words(sparsity: Sparsity) -> str:
    """How it was chosen what goes, for example: wanda, dlp allocation, unstructured."""
    words = [sparsity.criterion, f"{sparsity.allocation} allocation", sparsity.pattern]
    return ", ".join(word for word in words if word)


def sparsity_notes(sparsity: Sparsity | None) -> list[str]:
    """Sentences on how much is zero or gone, and on what that saves in memory and time."""
    if sparsity is None:
        return []
    what = "gone" if sparsity.is_width else "zero"
    counts = (
        f"{sparsity.zeros:,} of the {sparsity.weights:,} weights in the linear layers of the "
        f"blocks are {what}: {tables.percent(sparsity.achieved)}, with a target of "
        f"{tables.rate(sparsity.target)}."
    )
    return [counts, *(_width_notes(sparsity) if sparsity.is_width else _mask_notes(sparsity))]


def _mask_notes(sparsity: Sparsity) -> list[str]:
    note = (
        "The zeros are stored and multiplied like other weights: they make the model neither "
        "smaller in memory nor faster on GPU or TPU today."
    )
    if sparsity.stored is not None:
        note += (
            f" As exported it takes {tables.size(sparsity.stored)}; the weights that are kept, "
            "with one bit per weight of the masked matrices, would take "
            f"{tables.size(sparsity.smallest)}."
        )
    patterns = {block.pattern or sparsity.pattern for block in sparsity.blocks}
    if "2:4" not in (patterns or {sparsity.pattern}):
        return [note]
    of_all = "" if patterns == {"2:4"} else " (here that of some of the blocks)"
    return [
        note,
        f"Some GPUs have hardware for the pattern 2:4{of_all}. Stock frameworks must be told to "
        "use it, and jprune does not use it.",
    ]


def _width_notes(sparsity: Sparsity) -> list[str]:
    stored, smallest = tables.size(sparsity.stored), tables.size(sparsity.smallest)
    known = sparsity.stored is not None
    if not sparsity.padded:
        return [f"The exported model has these widths, without padding: {stored}."] if known else []
    return [
        "Stock models have one width for all layers, so that the exported model holds what "
        f"narrower blocks lack as zeros{f' ({stored})' if known else ''}. This padding saves "
        "nothing, neither memory nor time; the Orbax checkpoint, which has the true widths"
        f"{f' ({smallest})' if known else ''}, does."
    ]
