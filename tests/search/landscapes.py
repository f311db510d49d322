"""Losses with known optima, to search, and what searches of them share."""

import numpy as np

from jprune.scores import Unit
from jprune.search import Candidate, DropSpace, Objective, SearchSettings, StitchSpace

ITEMS = 16
EVERYTHING = SearchSettings("random", 6, rungs=(1,))  # each candidate at once on all items
COSTS = np.array([0.9, 0.31, 0.62, 0.2, 0.55, 0.74, 0.12, 0.81, 0.43, 0.27, 0.69, 0.5])
GAINS = np.array([[0.2, -0.1], [-0.3, 0.1], [0.05, 0.15], [0.1, -0.2], [-0.1, -0.1], [0.3, 0.2]])


def drop_space(remove=3):
    blocks = tuple(Unit(layer, "block") for layer in range(len(COSTS)))
    return DropSpace(len(COSTS), blocks, remove)


def removal_loss(candidate: Candidate, name: str, items: np.ndarray) -> np.ndarray:
    """2 + the costs of what is gone; items differ, but alike for all candidates."""
    cost = sum(COSTS[unit.layer] for unit in candidate.removed)
    return 2 + cost + 0.5 * np.cos(items)


def best_removal(remove=3) -> set[int]:
    return set(np.argsort(COSTS)[:remove].tolist())


def stitch_space(remove=2):
    return StitchSpace(len(GAINS), remove, ("math", "code"))


def stitch_loss(candidate: Candidate, name: str, items: np.ndarray) -> np.ndarray:
    """As `removal_loss`, less the gains of the variants; two together gain most at factor 0.6."""
    loss = removal_loss(candidate, name, items)
    for mix in candidate.mixes:
        gain = GAINS[mix.layer, list(mix.variants)].sum()
        loss = loss - gain * (1 if mix.factor is None else 1 - (mix.factor - 0.6) ** 2)
    return loss


def objective(name="text", maximize=False):
    return Objective(name, ITEMS, maximize)


def layers(candidate: Candidate) -> set[int]:
    return {unit.layer for unit in candidate.removed}


class Recorder:
    """Evaluates, and keeps what was asked."""

    def __init__(self, loss=removal_loss):
        self.loss, self.calls = loss, []

    def __call__(self, candidate, name, items):
        self.calls.append((candidate, name, tuple(items.tolist())))
        return self.loss(candidate, name, items)

    def items(self, candidate, name):
        return [items for who, what, items in self.calls if (who, what) == (candidate, name)]


def single(*chosen):
    return Candidate(tuple(Unit(layer, "block") for layer in chosen))
