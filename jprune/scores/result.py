"""What scoring gives: a number per unit, an order of removal, and how sure they are."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from jprune.core.errors import InputError
from jprune.scores.units import PARTS, Unit


@dataclasses.dataclass(frozen=True)
class Scores:
    """Scores of the units of a model; the lower, the sooner a unit is removed.

    Attributes:
      criterion: how they were computed.
      granularity: of the units.
      units: every unit, in order of depth.
      scores: one per unit; None where undefined.
      order: positions in `units`, least important first, protected and undefined ones left out.
      protected: layers out of reach.
      delta_nll: perplexity and greedy: NLL without the unit minus NLL of the model it was taken
        from, in nats per token, paired over windows.
      standard_error: of `delta_nll`, over windows.
      window_nll: perplexity: the NLL of every window without the unit, in nats per token.
      window_scores: angular: one per contiguous run of `n` blocks, by its first block.
      n: angular: how many contiguous blocks.
      path: greedy: the units in the order of their removal, each with the perplexity after it.
      settings: options and figures that belong to the scores, such as the full model's NLL.
    """

    criterion: str
    granularity: str
    units: tuple[Unit, ...]
    scores: tuple[float | None, ...]
    order: tuple[int, ...]
    protected: tuple[int, ...] = ()
    delta_nll: tuple[float | None, ...] | None = None
    standard_error: tuple[float | None, ...] | None = None
    window_nll: tuple[tuple[float, ...] | None, ...] | None = None
    window_scores: tuple[float, ...] | None = None
    n: int | None = None
    path: tuple[dict[str, Any], ...] | None = None
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The scores as `jprune score` writes them; what a criterion does not have is left out."""
        fields = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) is not None
        }
        return fields | {"units": [unit.to_json() for unit in self.units]}

    @staticmethod
    def from_json(data: Any) -> "Scores":
        """The scores of a file that `to_json` gave.

        Raises:
          InputError: it is no such file.
        """
        try:
            known = {field.name for field in dataclasses.fields(Scores)}
            fields = {key: _tuples(value) for key, value in data.items() if key in known}
            fields["units"] = _units(data)
            scores = Scores(**fields)
            positions = sorted(int(position) for position in scores.order)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"this is no file of scores ({error}); make one with 'jprune score --out=s.json'"
            ) from None
        if len(scores.scores) != len(scores.units):
            raise InputError(
                f"this file of scores has {len(scores.scores)} scores for {len(scores.units)} units"
            )
        if len(set(positions)) < len(positions) or not set(positions) <= {
            *range(len(scores.units))
        }:
            raise InputError(
                f"the order of this file of scores should be positions from 0 to "
                f"{len(scores.units) - 1}, each once at most, not {list(scores.order)}"
            )
        return scores


def _tuples(value: Any) -> Any:
    """JSON's lists, also those in lists, as tuples."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _units(data: dict[str, Any]) -> tuple[Unit, ...]:
    """The units of a file; without a list, those of its granularity from layer 0 on."""
    if "units" in data:
        return tuple(Unit(int(unit["layer"]), unit["part"]) for unit in data["units"])
    parts = PARTS[data["granularity"]]
    count = len(data["scores"])
    return tuple(Unit(at // len(parts), parts[at % len(parts)]) for at in range(count))


def rank(
    units: Sequence[Unit], scores: Sequence[float | None], protected: Sequence[int]
) -> tuple[int, ...]:
    """Positions by ascending score, ties to the earlier unit, without protected and undefined.

    Raises:
      InputError: a score that is not a number, which no order can hold.
    """
    for unit, score in zip(units, scores, strict=True):
        if score is not None and math.isnan(score):
            raise InputError(
                f"the score of {unit} is not a number: the model's activations are not finite "
                "on this data; try --dtype=float32"
            )
    eligible = [
        position
        for position, unit in enumerate(units)
        if scores[position] is not None and unit.layer not in protected
    ]
    return tuple(sorted(eligible, key=lambda position: scores[position]))


def select(scores: Scores, remove: int) -> tuple[Unit, ...]:
    """The `remove` units that go first, in order of depth.

    Raises:
      InputError: fewer units can be removed, nothing would be left of the model, or contiguous
        scores were computed for another number of blocks.
    """
    if remove < 0:
        raise InputError(f"cannot remove {remove} units; give a number from 0 on")
    if scores.n is not None and remove not in (0, scores.n):
        raise InputError(
            f"these {scores.criterion} scores are of {scores.n} contiguous blocks; to remove "
            f"{remove}, score again with --remove={remove}"
        )
    layers = len(scores.units) // len(PARTS[scores.granularity])
    if scores.granularity in ("block", "sublayer") and remove >= len(scores.units):
        raise InputError(
            f"removing {remove} of {len(scores.units)} units would leave no model; "
            f"the {layers}-layer model can lose at most {len(scores.units) - 1}"
        )
    if remove > len(scores.order):
        reason = f": layers {_listed(scores.protected)} are protected, see the key 'protect'"
        raise InputError(
            f"cannot remove {remove} units: only {len(scores.order)} of {len(scores.units)} can go"
            + (reason if scores.protected else "")
        )
    return tuple(sorted(scores.units[position] for position in scores.order[:remove]))


def _listed(layers: Sequence[int]) -> str:
    return ", ".join(str(layer) for layer in layers)
