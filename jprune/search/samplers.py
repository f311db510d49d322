"""What proposes the candidates of a search: all samplers behind one interface.

Nothing is kept in memory from one proposal to the next: each is a function of the trials so far and
of a seed of its own. So any worker can go on where another one was stopped, and a search that was
stopped and resumed proposes what it would have proposed otherwise.
"""

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jprune.search.candidates import Candidate
from jprune.search.offspring import unseen_offspring
from jprune.search.parameters import encode, suggest
from jprune.search.settings import SearchSettings
from jprune.search.space import Space
from jprune.search.storage import import_optuna
from jprune.search.trials import Past, Trials

_DRAWS = 3  # before a neighbour is taken


@dataclasses.dataclass(frozen=True)
class Ask:
    """A trial that needs a candidate.

    Attributes:
      trial: the trial.
      slot: its place in the order of proposals; a slot whose trial was lost is given out again.
      past: the other trials that count, by their numbers.
      given: a candidate that it has to be, a warm start.
    """

    trial: Past
    slot: int
    past: Sequence[Past]
    given: Candidate | None = None


class Sampler:
    """Proposes candidates of a space.

    Args:
      space: of the candidates.
      settings: of the search.
      warm: how many warm starts have the first slots.

    Attributes:
      most: how many trials it makes.
    """

    def __init__(self, space: Space, settings: SearchSettings, warm: int = 0):
        self.space, self.settings, self.warm = space, settings, warm
        self.most = settings.trials

    def ready(self, past: Sequence[Past]) -> str:
        """Whether there is something to propose: "go", "wait" for running trials, or "end"."""
        return "go"

    def propose(self, ask: Ask) -> Candidate | None:
        """A candidate for a trial; None if another worker was faster and there is none left."""
        raise NotImplementedError

    def rivals(self, past: Sequence[Past], slot: int, candidate: Candidate) -> list[Past]:
        """Those of the other trials that one is compared with at its rungs."""
        return list(past)

    def rng(self, slot: int) -> np.random.Generator:
        """The generator of a slot."""
        return np.random.default_rng([self.settings.seed, slot])


class OptunaSampler(Sampler):
    """TPE, NSGA-II or random candidates, by Optuna.

    Args:
      space: of the candidates.
      settings: of the search; its sampler is "tpe", "nsga2" or "random".
      warm: how many warm starts have the first slots.
      trials: of the study, which Optuna reads itself.
    """

    def __init__(self, space: Space, settings: SearchSettings, warm: int, trials: Trials):
        super().__init__(space, settings, warm)
        self._trials = trials
        self._conditional = settings.sampler != "nsga2"

    def propose(self, ask: Ask) -> Candidate:
        """What Optuna suggests, or a warm start as if it had.

        The better TPE and NSGA-II know a space, the more often they suggest what was there before:
        for it one of its neighbours is taken, as evolution would.
        """
        optuna = import_optuna()
        rng = self.rng(ask.slot)
        seen = {past.candidate for past in ask.past}
        for _ in range(_DRAWS):
            probe = self._probe(optuna, ask, int(rng.integers(2**31)))
            if ask.given is not None:
                values = encode(self.space, ask.given)
                break
            candidate = suggest(self.space, probe, self._conditional)
            values = probe.values
            if candidate not in seen:
                break
        else:
            if self.settings.sampler != "random":
                values = encode(self.space, unseen_offspring(self.space, candidate, seen, rng))
        study = self._study(optuna, _giving(optuna, values))
        return suggest(self.space, optuna.trial.Trial(study, ask.trial.id), self._conditional)

    def _study(self, optuna: Any, sampler: Any) -> Any:
        name, storage = self._trials.name, self._trials.storage
        return optuna.load_study(study_name=name, storage=storage, sampler=sampler)

    def _probe(self, optuna: Any, ask: Ask, seed: int) -> "_Probe":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = self._sampler(optuna, seed)
        trial = self._trials.storage.get_trial(ask.trial.id)
        return _Probe(optuna.distributions, self._study(optuna, sampler), trial)

    def _sampler(self, optuna: Any, seed: int) -> Any:
        settings = self.settings
        if settings.sampler == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        if settings.sampler == "nsga2":
            return optuna.samplers.NSGAIISampler(population_size=settings.population, seed=seed)
        return optuna.samplers.TPESampler(
            seed=seed,
            n_startup_trials=settings.startup,
            # Priorities alone are better modelled each by itself, see `jprune.search.parameters`.
            multivariate=bool(self.space.variants),
            group=bool(self.space.variants),
            constant_liar=True,
        )


class _Probe:
    """Gives the parameters that a sampler suggests for a trial, without storing them there."""

    def __init__(self, distributions: Any, study: Any, trial: Any):
        self.values: dict[str, Any] = {}
        self._distributions, self._study, self._trial = distributions, study, trial
        sampler = study.sampler
        # NSGA-II notes here which generation a trial belongs to, warm starts too.
        space = sampler.infer_relative_search_space(study, trial)
        self._relative = sampler.sample_relative(study, trial, space)

    def suggest_float(self, name: str, low: float, high: float, step: float | None = None) -> float:
        return self._suggest(name, self._distributions.FloatDistribution(low, high, step=step))

    def suggest_categorical(self, name: str, choices: Sequence[str]) -> str:
        return self._suggest(name, self._distributions.CategoricalDistribution(choices))

    def _suggest(self, name: str, distribution: Any) -> Any:
        value = self._relative.get(name)
        if value is None:
            sampler = self._study.sampler
            value = sampler.sample_independent(self._study, self._trial, name, distribution)
        self.values[name] = value
        return value


def _giving(optuna: Any, values: Mapping[str, Any]) -> Any:
    """An Optuna sampler that suggests given values."""

    class Giving(optuna.samplers.BaseSampler):
        def infer_relative_search_space(self, study, trial):
            return {}

        def sample_relative(self, study, trial, search_space):
            return {}

        def sample_independent(self, study, trial, param_name, param_distribution):
            return values[param_name]

    return Giving()


def make_sampler(space: Space, settings: SearchSettings, warm: int, trials: Trials) -> Sampler:
    """The sampler of the settings.

    Raises:
      InputError: too few trials for it.
    """
    from jprune.search.evolution import Evolution
    from jprune.search.greedy import Greedy

    own = {"evolution": Evolution, "greedy": Greedy}
    if settings.sampler in own:
        return own[settings.sampler](space, settings, warm)
    return OptunaSampler(space, settings, warm, trials)
