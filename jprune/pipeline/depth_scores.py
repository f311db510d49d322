"""The scoring half of a depth pruning job: which units every criterion would remove."""

from collections.abc import Mapping
from typing import Any

from jprune.checkpoints import Checkpoint
from jprune.core.files import PathLike, as_path, read_json, write_json
from jprune.core.paths import file_stem
from jprune.core.plugins import code_of
from jprune.pipeline import curve
from jprune.pipeline.calibration import Calibration
from jprune.pipeline.depth_config import DepthConfig
from jprune.pipeline.lazy import Lazy
from jprune.pipeline.stages import Stage
from jprune.scores import CRITERIA, DATA_FREE, Scores, parse_layers, score


class DepthScores:
    """Calibration windows and the scores of all criteria, kept in a workdir."""

    def __init__(
        self,
        config: DepthConfig,
        workdir: PathLike,
        checkpoint: Lazy[Checkpoint],
        tokenizer: str | None,
    ):
        self.config = config
        self.root = as_path(workdir)
        self.checkpoint = checkpoint
        self.calibration = Calibration(config, workdir, checkpoint, tokenizer)
        self.unit_keys: dict[str, Any] = {
            "granularity": config.granularity,
            "protect": config.protect,
        }

    def stages(self) -> list[Stage]:
        """Calibration, a stage for each criterion, and the baselines."""
        keys = self.unit_keys | {"seeds": self.config.curve_seeds}
        files = tuple(score_file(name) for name in self._baselines)
        return [
            *self._calibration_stages,
            *(self._score_stage(name) for name in self.config.criteria),
            Stage("baselines", keys, self.baselines, ("model",), files),
        ]

    def stage_name(self, criterion: str) -> str:
        """The stage that computes the scores of one of the config's criteria."""
        return "score" if criterion == self.config.criterion else f"score-{file_stem(criterion)}"

    def read(self, criterion: str) -> Scores:
        """The scores that its stage wrote."""
        return Scores.from_json(read_json(self.root / score_file(criterion)))

    def path(self, criterion: str, **options: Any) -> list[curve.Removal]:
        """What a criterion removes at 0, 1, ... units, as far as the curve goes."""
        most = self.config.curve_reach
        if criterion == "angular":  # every number of blocks has scores of its own
            layers = self.checkpoint().llama.num_layers
            longest = curve.longest_run(layers, parse_layers(self.config.protect, layers))
            rescore = lambda count: self._score("angular", {"remove": count})  # noqa: E731
            return curve.contiguous_removals(rescore, min(most, longest))
        if options or criterion not in self.config.criteria:
            return curve.removals(self._score(criterion, options), most)
        return curve.removals(self.read(criterion), most)

    def compute(self, criterion: str, values: Mapping[str, Any]) -> None:
        """Scores every unit under one criterion."""
        scores = self._score(criterion, self._options(criterion))
        content = scores.to_json() | {"calibration": values.get("calibration")}
        write_json(self.root / score_file(criterion), content)

    def baselines(self, values: Mapping[str, Any]) -> None:
        """What random removal, once per seed, and removal from the end would take."""
        for name in self._baselines:
            seeds = range(max(1, self.config.curve_seeds)) if name == "random" else ()
            drawn = [self._score(name, {"seed": seed}) for seed in seeds] or [self._score(name, {})]
            orders = [one.settings | {"order": one.order} for one in drawn]
            write_json(self.root / score_file(name), drawn[0].to_json() | {"orders": orders})

    def _score_stage(self, criterion: str) -> Stage:
        return Stage(
            self.stage_name(criterion),
            {
                "criterion": criterion,
                **({} if criterion in CRITERIA else code_of(criterion, "criterion")),
                **self.unit_keys,
                **self._options(criterion),
            },
            lambda values: self.compute(criterion, values),
            ("model", "calibration") if self._reads_data(criterion) else ("model",),
            (score_file(criterion),),
        )

    @property
    def _calibration_stages(self) -> list[Stage]:
        return self.calibration.stages() if self.config.reads_data else []

    @property
    def _baselines(self) -> tuple[str, ...]:
        return tuple(name for name in ("random", "last") if name not in self.config.criteria)

    def _reads_data(self, criterion: str) -> bool:
        return criterion not in DATA_FREE and self.config.calibration is not None

    def _options(self, criterion: str) -> dict[str, Any]:
        """The options of a criterion, as far as the config alone decides them."""
        config = self.config
        options = dict(config.options) if criterion == config.criterion else {}
        if criterion == "angular":
            options["remove"] = max(1, config.remove)
        elif criterion == "greedy":
            reach = config.curve_reach if config.curve_windows else 0
            options["remove"] = max(config.remove, reach)
        elif criterion == "random":
            options["seed"] = config.seed
        return options

    def _score(self, criterion: str, options: Mapping[str, Any]) -> Scores:
        llama = self.checkpoint().llama
        if criterion == "greedy":  # no further for the curve than there is anything to remove
            order = score(llama, "last", **self.unit_keys).order
            possible = len(order) - (not parse_layers(self.config.protect, llama.num_layers))
            most = min(options["remove"], max(possible, self.config.remove))
            options = {**options, "remove": most}
        ids = self.calibration.ids() if self._reads_data(criterion) else None
        return score(llama, criterion, ids, **self.unit_keys, **options)


def score_file(criterion: str) -> str:
    """Where the scores of a criterion are, relative to the workdir."""
    return f"scores/{file_stem(criterion)}.json"
