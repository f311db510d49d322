"""What the result of a search is set beside: simpler ways to a model of the same size."""

import itertools
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from jprune.core.files import read_json, write_json
from jprune.evaluate import Removal, StitchedModels, perplexity
from jprune.llama.model import Llama
from jprune.pipeline.stages import Stage
from jprune.scores import Scores, score, select
from jprune.search import Candidate, warm_starts
from jprune.transforms import drop_units, merge_models

if TYPE_CHECKING:
    from jprune.pipeline.search import SearchRun

MERGED = "merge-depth"
_FACTORS = (0.2, 0.3, 0.5, 0.7, 1.0)
# The plain merges of which the best is depth pruned: what people try first.
MERGES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("linear", {}),
    ("model_stock", {}),
    *(("task_arithmetic", {"factor": factor}) for factor in _FACTORS),
    *(
        ("ties", {"density": density, "factor": factor})
        for density, factor in itertools.product((0.2, 0.5), (0.5, 1.0))
    ),
)


class Comparisons:
    """The stages of the comparisons that a search asks for, and the scores that they go by."""

    def __init__(self, run: "SearchRun"):
        self.run, self.config, self.root = run, run.config, run.root
        self._units = {name: getattr(run.config, name) for name in ("granularity", "protect")}

    @property
    def names(self) -> list[str]:
        """The stages of `stages`."""
        return [stage.name for stage in self.stages()]

    def score_stages(self) -> list[Stage]:
        """The rise of the objectives' NLL with each unit of each model removed.

        They tell the search what to begin with, and what depth pruning removes.
        """
        return [
            Stage(
                f"score-{name}",
                self._units,
                partial(self._score, number),
                ("model", "objectives"),
                (self._file(number),),
            )
            for number, name in enumerate(self.run.names)
        ]

    def scores(self, number: int) -> Scores:
        """The scores of one of the models; 0 is the base."""
        return Scores.from_json(read_json(self.root / self._file(number)))

    def stages(self) -> list[Stage]:
        """A stage for each comparison; its value has `candidate` and `perplexity`."""
        run, config = self.run, self.config
        keys = run.evaluation_keys | self._units
        keys |= {"eval_windows": config.eval_windows, "remove": config.remove}
        found = []
        for kind in config.compare:
            if kind == "merge":
                more = {"merges": [list(one) for one in MERGES]}
                needs = ("model", "objectives")
                found.append(Stage(MERGED, keys | more, self._merge_depth, needs))
                continue
            for number, name in enumerate(run.names):
                needs = ("model", "objectives", f"score-{name}")
                stage = f"{kind}-{name}"
                if kind == "depth":
                    found.append(Stage(stage, keys, partial(self._depth, number), needs))
                else:
                    more = run.search_keys(run.drop_space(number))
                    work = partial(self._removal, number)
                    found.append(Stage(stage, keys | more, work, needs, (f"search-{stage}",)))
        return found

    def _file(self, number: int) -> str:
        return f"scores/{self.run.names[number]}.json"

    def _score(self, number: int, values: Mapping[str, Any]) -> None:
        found = self._scores_of(self.run.model(number))
        write_json(self.root / self._file(number), found.to_json())

    def _scores_of(self, llama: Llama) -> Scores:
        ids = np.concatenate(list(self.run.windows().values()))
        return score(llama, "perplexity", ids, **self._units)

    def _depth(self, number: int, values: Mapping[str, Any]) -> dict[str, Any]:
        """Depth pruning of one model by perplexity."""
        return self._pruned(self.run.model(number), self.scores(number))

    def _pruned(self, llama: Llama, scores: Scores) -> dict[str, Any]:
        candidate = Candidate(tuple(select(scores, self.config.remove)))
        return self._measured(llama, candidate)

    def _measured(self, llama: Llama, candidate: Candidate) -> dict[str, Any]:
        pruned = drop_units(candidate.removed)(llama)
        return {
            "candidate": candidate.to_json(),
            "perplexity": self.run.perplexities(pruned),
        }

    def _removal(self, number: int, values: Mapping[str, Any]) -> dict[str, Any]:
        """A search on one model that only removes, with as many trials.

        Its scores are ratios to the base's NLL, as those of the search itself are.
        """
        run, llama, windows = self.run, self.run.model(number), self.run.windows()
        base = self._base_nll() if number else None
        models = StitchedModels(llama)

        def evaluate(candidate: Candidate, objective: str, items: Any) -> Any:
            gates = Removal(candidate.gates(run.space.num_layers))
            return models.nll(gates, windows[objective][items])

        space, name = run.drop_space(number), run.names[number]
        starts = warm_starts(space, self.scores(number))
        result = run.study(space, f"search-removal-{name}", evaluate, starts, base)
        curve = [{"trials": p["trials"], "score": p["score"]} for p in result.curve]
        found = {"score": result.incumbent.score, "trials": result.counts(), "curve": curve}
        return self._measured(llama, result.candidate) | found

    def _base_nll(self) -> dict[str, Float[np.ndarray, " windows"]]:
        """The base's NLL of every window of each objective."""
        models = StitchedModels(self.run.model(0))
        whole = Removal(Candidate().gates(self.run.space.num_layers))
        return {name: models.nll(whole, ids) for name, ids in self.run.windows().items()}

    def _merge_depth(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """Depth pruning by perplexity of that plain merge of all variants that is best unpruned.

        The best has the lowest mean ratio of the objectives' NLL to the base's, as candidates have.
        """
        run, windows = self.run, self.run.windows()
        base, *variants = [run.model(number) for number in range(len(run.names))]

        def nlls(llama: Llama) -> np.ndarray:
            return np.array([perplexity(llama, ids).nll for ids in windows.values()])

        bases = nlls(base)
        tried: list[tuple[float, str, dict[str, Any]]] = []
        for method, options in MERGES:
            if method == "model_stock" and len(variants) == 1:
                continue  # has no mean direction
            merged = merge_models(variants, method, base=base, **options)
            ratio = float(np.mean(nlls(merged) / bases))
            tried.append((ratio, method, options))
        _, method, options = min(tried, key=lambda one: one[0])
        merged = merge_models(variants, method, base=base, **options)
        rows = [{"method": m, "options": o, "score": ratio} for ratio, m, o in tried]
        found = {"merge": {"method": method, "options": options}, "tried": rows}
        return self._pruned(merged, self._scores_of(merged)) | found
