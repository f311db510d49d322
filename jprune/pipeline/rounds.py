"""Pruning and retraining in turn: depth pruning runs, each on what the one before it made.

Reference: Han et al., Learning both Weights and Connections (arXiv 1506.02626), section 3.4.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any

from jprune.checkpoints import export_huggingface, load_checkpoint, save
from jprune.checkpoints.mask_files import ARRAYS, copy_arrays, find_arrays
from jprune.core.files import PathLike, as_path, sha256_json, write_json, write_text
from jprune.core.progress import log
from jprune.llama.model import count_params
from jprune.pipeline import estimate, retraining_estimate
from jprune.pipeline.depth import DepthRun
from jprune.pipeline.depth_config import DepthConfig, check_removal, depth_config
from jprune.pipeline.groups import filled
from jprune.pipeline.job import Job, run_config
from jprune.pipeline.pruning import CHECKPOINT, RECIPE, RETRAINED
from jprune.pipeline.pruning_card import PHASES, pruning_card
from jprune.pipeline.source import SourceModel, find_model, known_identity
from jprune.pipeline.stages import Stage, fingerprints
from jprune.transforms import removed_units
from jprune.transforms.stored import stored_digests

ROUNDS, MODEL = "rounds", "model"


@dataclasses.dataclass(frozen=True)
class RoundsConfig:
    """The keys of a config of rounds, beside those of `DepthConfig`.

    Attributes:
      rounds: how many; `remove` units go in each, and `protect` names layers of the model as it is
        then.
    """

    rounds: int


def rounds_job(values: Mapping[str, Any], workdir: PathLike) -> Job:
    """The job of a config of rounds; its keys are those of `DepthConfig` and `RoundsConfig`.

    Raises:
      InputError: a bad key, model or data source; nothing has been loaded yet.
    """
    asked = dict(values)
    number = {"rounds": asked.pop("rounds")} if "rounds" in asked else {}
    rounds = filled(RoundsConfig, number).rounds
    config = depth_config(asked)
    source = find_model(config.model, config.dtype, known_identity(workdir))
    whole = dataclasses.replace(config, remove=config.remove * rounds)
    check_removal(whole, source.num_layers)
    run = RoundsRun(asked, config, rounds, source, workdir)
    return Job(
        stages=tuple(run.stages()),
        identity={"model": source.identity},
        summary=run.summary,
        estimate=lambda states: (
            estimate.lines(whole, source, ())
            + retraining_estimate.lines(config.retrain, source.abstract(), config.seed)
        ),
    )


class RoundsRun:
    """The stages of a run: one for every round, in a workdir of its own below `rounds/`.

    Args:
      asked: the keys of a depth pruning config.
      config: the same, checked.
      rounds: how many.
      source: the model before the first.
      workdir: where everything goes.
    """

    def __init__(
        self,
        asked: Mapping[str, Any],
        config: DepthConfig,
        rounds: int,
        source: SourceModel,
        workdir: PathLike,
    ):
        self.asked, self.config, self.rounds = asked, config, rounds
        self.source, self.root = source, as_path(workdir)
        self.checkpoint = RETRAINED if config.retrain.is_on else CHECKPOINT

    def stages(self) -> list[Stage]:
        """Every stage with the keys that it depends on."""
        first = DepthRun(self.config, self.source, self.folder(1))
        keys = {"stages": sha256_json(fingerprints(first.stages()))}
        stages = [
            Stage(
                f"round-{number}",
                keys,
                partial(self.run_round, number),
                (f"round-{number - 1}",) if number > 1 else (),
                (f"{ROUNDS}/{number}",),
            )
            for number in range(1, self.rounds + 1)
        ]
        names = tuple(stage.name for stage in stages)
        outputs = (MODEL, self.checkpoint, RECIPE, ARRAYS)
        return [
            *stages,
            Stage("export", {}, self.export, tuple(dict.fromkeys((names[0], names[-1]))), outputs),
            Stage("report", {}, self.report, (*names, "export"), ("report.html", "plots")),
        ]

    def folder(self, number: int) -> Any:
        """The workdir of a round."""
        return self.root / ROUNDS / str(number)

    def result(self, number: int) -> Any:
        """The checkpoint that a round ends with."""
        return self.folder(number) / self.checkpoint

    def run_round(self, number: int, values: Mapping[str, Any]) -> dict[str, Any]:
        """Prunes and retrains what the round before made, or goes on with that."""
        folder = self.folder(number)
        model = self.source.path if number == 1 else str(self.result(number - 1))
        known = known_identity(folder)
        if known and find_model(model, self.config.dtype, known).sha256 != known.get("sha256"):
            folder.rmtree()  # it belongs to what the round before made of other keys
        log.info("round %d of %d", number, self.rounds)
        # The mesh is that of the whole run.
        record = run_config(
            dict(self.asked) | {"job": "depth", "model": model, "mesh": None},
            folder,
            name=f"round {number}",
        )
        figures = {when: record["figures"][when] for when in PHASES if when in record["figures"]}
        return {"round": number, "figures": figures, "model": record["model"]}

    def export(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """The last round's model, with a recipe from the first model on."""
        last = self.result(self.rounds)
        found = load_checkpoint(last, "checkpoint")
        assert found.recipe is not None  # every run saves one
        digests = stored_digests(found.recipe["steps"])
        (self.root / ARRAYS).mkdir(parents=True, exist_ok=True)
        copy_arrays(find_arrays(last, digests), self.root / ARRAYS, digests)
        write_json(self.root / RECIPE, found.recipe)
        save(self.root / self.checkpoint, found.llama, found.tokenizer, found.recipe)
        first, last_figures = (values[f"round-{n}"]["figures"] for n in (1, self.rounds))
        figures = last_figures | {"before": first["before"]}
        evaluated = {f"evaluate-{when}": one["perplexity"] for when, one in figures.items()}
        card = pruning_card(self.root / MODEL, found.llama, found.recipe, evaluated)
        export_huggingface(
            self.root / MODEL, found.llama, found.tokenizer, found.recipe, dtype=found.llama.dtype
        )
        write_text(self.root / MODEL / "README.md", card)
        gone = removed_units(self.source.abstract(), found.llama)
        return {
            "removed": [{"layer": layer, "part": part} for layer, part in gone],
            "layers": found.llama.num_layers,
            "parameters": count_params(found.llama),
        }

    def report(self, values: Mapping[str, Any]) -> None:
        """The page."""
        from jprune.report import write_report

        (self.root / "plots").mkdir(parents=True, exist_ok=True)
        write_report(self.root)

    def summary(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """What run.json says, from the values of the finished stages."""
        done = [values[name] for name in map("round-{}".format, range(1, self.rounds + 1))
                if name in values]  # fmt: skip
        figures: dict[str, Any] = {"rounds": done}
        if done:
            figures["before"] = done[0]["figures"]["before"]
            figures |= {k: v for k, v in done[-1]["figures"].items() if k != "before"}
        sizes = {
            key: {
                "before": done[0]["model"][key]["before"] if done else None,
                "after": done[-1]["model"][key]["after"] if done else None,
            }
            for key in ("layers", "parameters", "bytes")
        }
        source = self.source
        model = {"name": source.name, "path": source.path, "sha256": source.sha256}
        removed = (values.get("export") or {}).get("removed", [])
        return {"figures": figures, "removed": removed, "model": model | sizes, "sparsity": {}}
