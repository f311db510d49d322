"""What a search is asked to do, checked before anything is loaded."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from jprune.core.errors import InputError, unknown
from jprune.data import find_source
from jprune.pipeline.pruning_config import (
    PruningConfig,
    check_choice,
    check_integers,
    read_config,
    strings,
)
from jprune.scores import GRANULARITIES
from jprune.search import SearchSettings

# What the result of a search is compared with.
COMPARISONS = ("depth", "removal", "merge")
_SETTINGS = ("sampler", "trials", "rungs", "eta", "seed", "population")


@dataclasses.dataclass(frozen=True)
class SearchConfig(PruningConfig):
    """The keys of a config for a search, beside those of `PruningConfig`; it reads no calibration.

    Attributes:
      model: the base; its layers are removed.
      variants: finetunes of it, from which kept layers are taken too; none for removal alone.
      objectives: data sources whose NLL the search lowers. Several have a Pareto front, of which
        the lowest mean ratio to the base is taken.
      eval: data sources of the report, disjoint from the objectives. By default the objectives are
        divided: of each source the documents of part @1/2 are searched on, @2/2 reported.
      compare: what the result is set beside: depth (perplexity-criterion depth pruning of every
        model), removal (a search that only removes, on every model, with as many trials), merge
        (depth pruning of the best plain merge of all variants).
      remove: how many units go.
      granularity: of the units; with variants only block.
      protect: layers out of reach, for example "0-3,-2,-1".
      search_windows: at most so many windows of each objective, drawn at random; None for all.
      sampler: tpe, nsga2, random, evolution or greedy.
      trials: how many candidates.
      rungs: on which fractions of the windows candidates are evaluated before all, ending with 1.
      eta: one in so many goes on from a rung to the next.
      population: of nsga2; of evolution the offspring in a generation.
      storage: of the study: an Optuna URL, for workers on several machines that each have a workdir
        of their own; by default a journal in the workdir.
    """

    variants: tuple[str, ...] = ()
    objectives: tuple[str, ...] = ()
    remove: int = 0
    granularity: str = "block"
    protect: str = ""
    search_windows: int | None = 64
    sampler: str = "tpe"
    trials: int = 200
    rungs: tuple[float, ...] = (0.125, 0.5, 1.0)
    eta: float = 2.0
    population: int = 16
    storage: str | None = None

    @property
    def settings(self) -> SearchSettings:
        """How the search goes."""
        return SearchSettings(**{name: getattr(self, name) for name in _SETTINGS})


def search_config(values: Mapping[str, Any]) -> SearchConfig:
    """The config that these keys give.

    Raises:
      InputError: an unknown key or name, with the nearest one; a missing model or objective; search
        and report data that overlap; a number out of range.
    """
    fields = dict(values)
    objectives = strings(fields.get("objectives", ()))
    if not objectives:
        raise InputError("what is searched for? give --config.objectives=SOURCE (or several, a,b)")
    if not strings(fields.get("eval", ())):
        fields["eval"] = tuple(f"{source}@2/2" for source in objectives)
        objectives = tuple(f"{source}@1/2" for source in objectives)
    fields["objectives"] = objectives
    fields["variants"] = strings(fields.get("variants", ()))
    fields["rungs"] = tuple(SearchSettings(rungs=fields.get("rungs", (1.0,))).rungs)
    fields["storage"] = fields.get("storage") or None
    config = read_config(SearchConfig, fields)
    check_choice(config, "granularity", GRANULARITIES)
    check_integers(config, {"remove": 0 if config.variants else 1})
    check_integers(config, {"search_windows": 1}, optional=True)
    for name in config.compare:
        if name not in COMPARISONS:
            raise unknown("comparison", name, COMPARISONS)
    if "merge" in config.compare and not config.variants:
        raise InputError("there is nothing to merge without variants: leave merge out of compare")
    if config.variants and config.granularity != "block":
        raise InputError(
            f"stitching is of whole blocks: use --config.granularity=block, not "
            f"{config.granularity}, or leave out the variants"
        )
    if config.sampler == "greedy" and config.variants:
        raise InputError("greedy removes units of one model; with variants use another sampler")
    _ = config.settings  # checks them
    _check_disjoint(config)
    return config


def _check_disjoint(config: SearchConfig) -> None:
    """Raises InputError if the same data are searched on and reported."""
    found = [find_source(s, "evaluation", config.data_dir) for s in config.objectives]
    searched = {str(source.fingerprint()): source.text for source in found}
    for text in config.eval:
        fingerprint = str(find_source(text, "evaluation", config.data_dir).fingerprint())
        if fingerprint in searched:
            raise InputError(
                f"{text} is both searched on ({searched[fingerprint]}) and reported; give report "
                "data of its own with --config.eval, or leave eval out to divide the objectives"
            )
