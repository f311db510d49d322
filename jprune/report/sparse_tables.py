"""A sparse run as tables: its blocks, perplexity against sparsity, what the rates come from."""

from collections.abc import Sequence

from jprune.report import tables
from jprune.report.sections import protocol_text, settings_text
from jprune.report.sparsity import (
    MATRICES,
    Allocation,
    Change,
    Sparsity,
    SparsityCurve,
    Statistics,
)
from jprune.report.tables import Cell, Table


def block_table(sparsity: Sparsity) -> Table:
    """Every block by its original index, allocated beside achieved, and a total."""
    return _width_table(sparsity) if sparsity.is_width else _mask_table(sparsity)


def _mask_table(sparsity: Sparsity) -> Table:
    patterns = any(block.pattern for block in sparsity.blocks)
    rows: list[tuple[Cell, ...]] = [
        (
            block.layer,
            _percent(block.density),
            *([block.pattern] if patterns else []),
            *(_percent(block.matrices.get(name)) for name in MATRICES),
            _percent(block.sparsity),
        )
        for block in sparsity.blocks
    ]
    # How large each matrix is the file does not say: a matrix has no total over blocks.
    total = ("Total", _percent(1 - sparsity.target), *([sparsity.pattern] if patterns else []))
    rows.append((*total, *(None for _ in MATRICES), _percent(sparsity.achieved)))
    names = [name.rpartition(".")[2] for name in MATRICES]
    columns = ("Block", "Density (%)", *(["Pattern"] if patterns else []), *names, "All")
    caption = (
        "Density: what the allocation asked to keep of a block. Then the share of zeros that came "
        "out, in percent, of each matrix and of all together."
    )
    return Table(columns, rows, caption)


def _width_table(sparsity: Sparsity) -> Table:
    blocks = sparsity.blocks
    rows: list[tuple[Cell, ...]] = [
        (
            block.layer,
            _percent(block.density),
            _percent(block.sparsity),
            _change(block.heads),
            _change(block.neurons),
        )
        for block in blocks
    ]
    rows.append(
        (
            "Total",
            _percent(1 - sparsity.target),
            _percent(sparsity.achieved),
            _change(_sum([block.heads for block in blocks])),
            _change(_sum([block.neurons for block in blocks])),
        )
    )
    caption = (
        "Density: what the allocation asked to keep of a block; gone: the share of its weights "
        "that is. Both in percent."
    )
    columns = ("Block", "Density (%)", "Gone (%)", "Key-value heads", "Neurons")
    return Table(columns, rows, caption)


def _percent(share: float | None) -> str | None:
    return None if share is None else f"{100 * share:.2f}"


def _change(change: Change | None) -> str | None:
    if change is None:
        return None
    before, after = change
    return str(before) if before == after else f"{before} → {after}"


def _sum(changes: Sequence[Change | None]) -> Change | None:
    known = [change for change in changes if change is not None]
    return (sum(b for b, _ in known), sum(a for _, a in known)) if known else None


def sparsity_curve_table(curve: SparsityCurve) -> Table:
    """Perplexity by target sparsity, a column per allocation; 0% is the unpruned model."""
    targets = sorted({t for one in curve.series for t in one.sparsity})
    columns = [dict(zip(one.sparsity, one.ppl, strict=True)) for one in curve.series]
    rows: list[tuple[Cell, ...]] = [
        (tables.rate(t), *(tables.ppl(column.get(t)) for column in columns)) for t in targets
    ]
    sentences = [f"PPL with {curve.pruner}: {curve.data or 'unknown data'}"]
    sentences[0] += f"; {protocol_text(curve.protocol)}." if curve.protocol else "."
    if curve.dense is not None and 0 not in targets:
        rows.insert(0, (tables.rate(0), *(tables.ppl(curve.dense) for _ in columns)))
        sentences.append("0%: the unpruned model.")
    furthest = max_deviation(curve)
    if furthest:
        sentences.append(f"Achieved: within {100 * furthest:.2g} points of these sparsities.")
    names = (one.allocation for one in curve.series)
    return Table(("Sparsity", *names), rows, " ".join(sentences))


def max_deviation(curve: SparsityCurve) -> float:
    """How far an achieved sparsity is from its target at most."""
    return max(
        (
            abs(achieved - target)
            for one in curve.series
            for target, achieved in zip(one.sparsity, one.achieved, strict=True)
            if achieved is not None
        ),
        default=0.0,
    )


def statistics_table(statistics: Statistics, allocation: Allocation | None = None) -> Table:
    """The statistics of every block of the dense model, and the density that came of them."""
    known = allocation is not None and allocation.layers == statistics.layers
    density = allocation.density if known and allocation else ()
    columns = ("Block", "Mean", "Median", "Outliers (%)", "Weights")
    lists = (statistics.layers, statistics.mean, statistics.median, statistics.outliers)
    rows: list[tuple[Cell, ...]] = [
        (layer, mean, median, f"{outliers:.3f}", size)
        for layer, mean, median, outliers, size in zip(*lists, statistics.sizes, strict=True)
    ]
    if known:
        columns = (*columns, "Density (%)")
        rows = [(*row, _percent(d)) for row, d in zip(rows, density, strict=True)]
    caption = (
        "Wanda's metric A = |W| √s of the unpruned model, over all linear weights of a block: "
        "mean, median, and the share of outliers, which are above a multiple of the mean."
    )
    settings = settings_text(statistics.calibration)
    return Table(columns, rows, f"{caption} Calibration: {settings}." if settings else caption)
