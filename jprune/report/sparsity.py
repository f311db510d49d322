"""What a workdir's JSON files say of sparsity: masks or widths, curves, what rates come from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jprune.core.errors import InputError
from jprune.report import fields
from jprune.report.fields import Numbers

MATRICES = (
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
)
WIDTH = "width"  # the criterion of runs that take out heads and neurons, in place of masks
_KEYS = ("criterion", "allocation", "target", "achieved", "weights", "zeros", "blocks")

Change = tuple[int, int]


@dataclass(frozen=True)
class SparseBlock:
    """One block of a sparse model.

    Attributes:
      layer: its original index.
      density: share of its weights that stays, as the allocation asked for.
      sparsity: share of its weights that is zero (masks) or gone (width).
      pattern: N:M, where that is what its density became.
      matrices: the sparsity of each; those of removed sublayers are missing.
      heads: key-value heads before and after, of width pruning.
      neurons: the same of neurons.
    """

    layer: int
    density: float
    sparsity: float
    pattern: str | None
    matrices: Mapping[str, float]
    heads: Change | None
    neurons: Change | None


@dataclass(frozen=True)
class Sparsity:
    """run.json's "sparsity".

    Attributes:
      criterion: of the masks, or "width".
      allocation: how the rates of the blocks were chosen.
      pattern: unstructured or N:M; None for width.
      target: share of the blocks' linear weights to prune.
      achieved: share that is zero (masks) or gone (width).
      weights: how many linear weights the blocks have, before width pruning.
      zeros: how many of them are zero or gone.
      blocks: in order.
      stored: bytes of the exported model, zeros included; None where not said.
      smallest: bytes that the weights which are left take: for masks with one bit per weight of
        the masked matrices, for width without padding.
      padded: whether the export pads narrower blocks with zeros.
    """

    criterion: str
    allocation: str
    pattern: str | None
    target: float
    achieved: float
    weights: int
    zeros: int
    blocks: tuple[SparseBlock, ...]
    stored: int | None
    smallest: int | None
    padded: bool

    @property
    def is_width(self) -> bool:
        """Whether heads and neurons are gone, rather than weights zero."""
        return self.criterion == WIDTH


@dataclass(frozen=True)
class SparsitySeries:
    """Perplexities of one allocation: at each target, the achieved sparsity and the PPL."""

    allocation: str
    sparsity: tuple[float, ...]
    achieved: Numbers
    ppl: Numbers


@dataclass(frozen=True)
class SparsityCurve:
    """run.json's figure "sparsity_curve"; `dense` is the PPL of the unpruned model."""

    data: str
    protocol: Mapping[str, Any]
    criterion: str
    pattern: str | None
    series: tuple[SparsitySeries, ...]
    dense: float | None

    @property
    def pruner(self) -> str:
        """What all allocations have in common, for example: wanda, unstructured."""
        return f"{self.criterion}, {self.pattern}" if self.pattern else self.criterion


@dataclass(frozen=True)
class Statistics:
    """scores/statistics.json: of the metric A over each block of the dense model; see
    `jprune.scores.WeightStats`. `layers` are original indices.
    """

    mean: tuple[float, ...]
    median: tuple[float, ...]
    outliers: tuple[float, ...]
    sizes: tuple[int, ...]
    layers: tuple[int, ...]
    calibration: Mapping[str, Any]


@dataclass(frozen=True)
class Allocation:
    """scores/allocation.json: the density of each block; `layers` are original indices."""

    allocation: str
    target: float
    density: tuple[float, ...]
    layers: tuple[int, ...]


def parse_sparsity(data: Mapping[str, Any], source: Any = "sparsity") -> Sparsity | None:
    """run.json's "sparsity"; None where it is empty, or of no form known here.

    Raises:
      InputError: a key is missing, or a value is not what it should be.
    """
    if not any(key in data for key in _KEYS):
        return None
    fields.require(data, _KEYS, source)
    criterion = fields.text(data, "criterion", source)
    width = criterion == WIDTH
    stored, smallest = None, None
    if "bytes" in data:
        sizes, where = fields.inner_object(data, "bytes", source), f"{source}: bytes"
        stored = fields.integer(sizes, "stored", where)
        smallest = fields.integer(sizes, "unpadded" if width else "compressed", where)
    return Sparsity(
        criterion=criterion,
        allocation=fields.text(data, "allocation", source),
        pattern=None if width else fields.text(data, "pattern", source),
        target=_share(data, "target", source),
        achieved=_share(data, "achieved", source),
        weights=fields.integer(data, "weights", source),
        zeros=fields.integer(data, "zeros", source),
        blocks=tuple(
            _block(block, width, f"{source} of block {at}")
            for at, block in enumerate(fields.sequence(data, "blocks", source))
        ),
        stored=stored,
        smallest=smallest,
        padded=bool(data.get("padded")),
    )


def _block(data: Any, width: bool, source: Any) -> SparseBlock:
    if not isinstance(data, Mapping):
        raise InputError(f"{source} should be a JSON object, not {data!r:.60}")
    matrices = {} if width else fields.number_map(data, "matrices", source)
    for name in matrices:
        if name not in MATRICES:
            raise InputError(f"{source}: {name!r} is no matrix of a block ({', '.join(MATRICES)})")
    return SparseBlock(
        layer=fields.integer(data, "layer", source),
        density=_share(data, "density", source),
        sparsity=_share(data, "sparsity", source),
        pattern=fields.text(data, "pattern", source) if _has(data, "pattern") else None,
        matrices=matrices,
        heads=_change(data, "heads", source),
        neurons=_change(data, "neurons", source),
    )


def _has(data: Mapping[str, Any], key: str) -> bool:
    return data.get(key) is not None


def _share(data: Mapping[str, Any], key: str, source: Any) -> float:
    value = fields.number(data, key, source)
    if not 0 <= value <= 1:
        raise InputError(f"{source}: {key} should be a share from 0 to 1, not {value}")
    return float(value)


def _change(data: Mapping[str, Any], key: str, source: Any) -> Change | None:
    if not _has(data, key):
        return None
    pair, where = fields.inner_object(data, key, source), f"{source}: {key}"
    return fields.integer(pair, "before", where), fields.integer(pair, "after", where)


def parse_sparsity_curve(data: Mapping[str, Any], source: Any = "curve") -> SparsityCurve | None:
    """run.json's figure "sparsity_curve"; None where there is none.

    Raises:
      InputError: a key is missing, or lists differ in length.
    """
    if not data:
        return None
    series = []
    for at, one in enumerate(fields.sequence(data, "series", source)):
        if not isinstance(one, Mapping):
            raise InputError(f"{source}: series {at} should be a JSON object, not {one!r:.60}")
        allocation = fields.text(one, "allocation", f"{source}: series {at}")
        where = f"{source} of {allocation}"
        sparsity = fields.number_list(one, "sparsity", where)
        fields.require(one, ("ppl",), where)
        found = {key: fields.optional_numbers(one.get(key), where) for key in ("achieved", "ppl")}
        found = {key: values or (None,) * len(sparsity) for key, values in found.items()}
        fields.same_length({"sparsity": sparsity, **found}, where)
        series.append(SparsitySeries(allocation, sparsity, found["achieved"], found["ppl"]))
    names = [one.allocation for one in series]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{source} has two series of {name}")
    protocol = fields.mapping(data.get("protocol"))
    return SparsityCurve(
        data=str(data.get("data") or protocol.get("data") or ""),
        protocol=protocol,
        criterion=fields.text(data, "criterion", source),
        pattern=fields.text(data, "pattern", source) if _has(data, "pattern") else None,
        series=tuple(series),
        dense=float(fields.number(data, "dense", source)) if _has(data, "dense") else None,
    )


def parse_statistics(data: Mapping[str, Any], source: Any = "statistics") -> Statistics:
    """scores/statistics.json.

    Raises:
      InputError: a key is missing, or lists differ in length.
    """
    mean, median, outliers = (
        fields.number_list(data, key, source) for key in ("mean", "median", "outliers")
    )
    sizes, layers = (fields.integer_list(data, key, source) for key in ("sizes", "layers"))
    lists = {"layers": layers, "mean": mean, "median": median, "outliers": outliers}
    fields.same_length(lists | {"sizes": sizes}, source)
    calibration = fields.mapping(data.get("calibration"))
    return Statistics(mean, median, outliers, sizes, layers, calibration)


def parse_allocation(data: Mapping[str, Any], source: Any = "allocation") -> Allocation:
    """scores/allocation.json.

    Raises:
      InputError: a key is missing, or lists differ in length.
    """
    layers = fields.integer_list(data, "layers", source)
    density = fields.number_list(data, "density", source)
    fields.same_length({"layers": layers, "density": density}, source)
    allocation, target = fields.text(data, "allocation", source), _share(data, "target", source)
    return Allocation(allocation, target, density, layers)
