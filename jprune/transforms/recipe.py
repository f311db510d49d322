"""Recipes: what was done to which model, as JSON that rebuilds the result."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jprune.core.errors import InputError
from jprune.core.files import PathLike, as_path, is_remote
from jprune.core.paths import resolved
from jprune.transforms.transform import Sources, Transform, chain, from_step

VERSION = 1


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The sources of a model and the steps that made it from them.

    Attributes:
      sources: ({"name": ..., "path": ..., "sha256": ...}, ...); steps start from the first and name
        the others, with which they merge it, by their index.
      steps: ({"op": ..., "args": {...}}, ...), in order.
    """

    sources: tuple[Mapping[str, Any], ...] = ()
    steps: tuple[Mapping[str, Any], ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The recipe as it is saved with every checkpoint."""
        return {
            "version": VERSION,
            "sources": [dict(source) for source in self.sources],
            "steps": [dict(step) for step in self.steps],
        }

    @staticmethod
    def from_json(data: Any) -> "Recipe":
        """The recipe that `to_json` wrote.

        Raises:
          InputError: it is no recipe, or one of a later version.
        """
        if not isinstance(data, Mapping) or not isinstance(data.get("steps"), list):
            raise InputError(
                'this is no recipe; one looks like {"version": 1, "sources": [...], "steps": [...]}'
            )
        if data.get("version") != VERSION:
            raise InputError(
                f"this recipe has version {data.get('version')!r}; "
                f"this jprune reads version {VERSION}"
            )
        sources = data.get("sources", [])
        if not isinstance(sources, list) or not all(isinstance(s, Mapping) for s in sources):
            raise InputError(
                f"the sources of this recipe are {sources!r}; they are a list of "
                '{"name": ..., "path": ..., "sha256": ...}'
            )
        return Recipe(tuple(sources), tuple(data["steps"]))

    @staticmethod
    def of_model(
        saved: Any, name: str, path: PathLike, sha256: str | Callable[[], str]
    ) -> "Recipe":
        """How a model was made; one that says nothing of it is a source itself.

        Args:
          saved: the recipe that is stored with the model, as JSON, or None.
          name: the model's.
          path: where it is; see `source_path`.
          sha256: of the model, or what computes it where it is needed.

        Raises:
          InputError: `saved` is no recipe.
        """
        recipe = Recipe.from_json(saved) if saved is not None else Recipe()
        if recipe.sources or recipe.steps:
            return recipe
        digest = sha256 if isinstance(sha256, str) else sha256()
        return Recipe(({"name": name, "path": source_path(path), "sha256": digest},))

    @staticmethod
    def of(checkpoint: Any) -> "Recipe":
        """How a loaded `Checkpoint` was made, or itself as the source: what `then` goes on from."""
        return Recipe.of_model(
            checkpoint.recipe, checkpoint.name, checkpoint.path, lambda: checkpoint.sha256
        )

    def then(self, transform: Transform) -> "Recipe":
        """The recipe of this one's result after one more transform."""
        return dataclasses.replace(self, steps=self.steps + transform.steps)

    def with_sources(self, *checkpoints: Any) -> tuple["Recipe", list[int]]:
        """This recipe with further sources, and by which indices steps name them.

        Args:
          *checkpoints: loaded `Checkpoint`s; one that is a further source already keeps its index.
        """
        sources = list(self.sources)
        indices = []
        for checkpoint in checkpoints:
            known = [source.get("sha256") for source in sources]
            index = next(
                (i for i, sha in enumerate(known) if i and sha == checkpoint.sha256), len(sources)
            )
            if index == len(sources):
                path, sha256 = source_path(checkpoint.path), checkpoint.sha256
                sources.append({"name": checkpoint.name, "path": path, "sha256": sha256})
            indices.append(index)
        return dataclasses.replace(self, sources=tuple(sources)), indices

    def transform(self, arrays: PathLike = ".", sources: Sources | None = None) -> Transform:
        """All steps as one transform of the first source.

        Args:
          arrays: the folder with the files that steps name by SHA-256.
          sources: the further sources by their index, from 1 on, or a function that loads them.

        Raises:
          InputError: a step that this version does not know.
        """
        return chain(*(from_step(step, arrays, sources) for step in self.steps))


def source_path(path: PathLike) -> str:
    """A model's path as a recipe names it: local ones hold from any working directory.

    What is not there, such as a hub id, and addresses on object stores stay as they are.
    """
    return str(path if is_remote(path) or not as_path(path).exists() else resolved(path))
