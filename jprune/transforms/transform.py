"""A transform: a pure function Llama -> Llama that knows how to write itself down."""

import dataclasses
import functools
import inspect
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jprune.core.errors import InputError, unknown
from jprune.core.files import PathLike
from jprune.llama.model import Llama

# Arguments of constructors that no recipe has: where the files are that steps name by SHA-256, and
# the further models that they name by number.
ARRAYS, SOURCES = "arrays", "sources"

# The further sources of a recipe, by their index in it, or what loads them.
Sources = Mapping[int, Llama] | Callable[[int], Llama]

_CONSTRUCTORS: dict[str, Callable[..., "Transform"]] = {}


@dataclasses.dataclass(frozen=True)
class Transform:
    """A pure function from a model to a model; call it. Equal steps make equal transforms.

    It works under `jax.jit` and `jax.eval_shape`, so the size of a result is known before any of
    its arrays exists.

    Attributes:
      steps: what a recipe writes: ({"op": name, "args": {...}}, ...).
      function: what it does.
    """

    steps: tuple[Mapping[str, Any], ...]
    function: Callable[[Llama], Llama] = dataclasses.field(compare=False, repr=False)

    def __call__(self, llama: Llama) -> Llama:
        """The transformed model; `llama` itself stays as it is."""
        return self.function(llama)

    def __hash__(self) -> int:
        return hash(json.dumps(self.steps, sort_keys=True))


def transform(constructor: Callable[..., Callable[[Llama], Llama]]) -> Callable[..., Transform]:
    """Decorates a function of plain JSON arguments that returns a function Llama -> Llama.

    The decorated function returns a `Transform`, and recipes find it under its name. No recipe has
    the arguments `arrays`, where the files are that other arguments name, and `sources`, the models
    that others name.
    """
    signature = inspect.signature(constructor)
    kinds = {parameter.kind: name for name, parameter in signature.parameters.items()}
    rest = kinds.get(inspect.Parameter.VAR_KEYWORD)  # the name of **options

    @functools.wraps(constructor)
    def make(*args, **kwargs) -> Transform:
        bound = signature.bind(*args, **kwargs)
        given = {**bound.arguments, **bound.arguments.get(rest, {})}
        context = {name: given[name] for name in (ARRAYS, SOURCES) if name in given}
        recorded = {
            name: _plain(value) for name, value in given.items() if name not in (*context, rest)
        }
        step = {"op": constructor.__name__, "args": recorded}
        return Transform((step,), constructor(**recorded, **context))

    _CONSTRUCTORS[constructor.__name__] = make
    return make


def _plain(value: Any) -> Any:
    """`value` as JSON would give it back."""
    if hasattr(value, "tolist"):  # NumPy's numbers and arrays
        return value.tolist()
    if hasattr(value, "to_json"):
        return value.to_json()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value


def chain(*transforms: Transform) -> Transform:
    """Applies transforms from left to right; indices of each refer to the model it is given.

    >>> chain(drop_blocks([3]), drop_blocks([3])).steps == chain(
    ...     chain(drop_blocks([3])), drop_blocks([3])).steps
    True
    """

    def apply(llama: Llama) -> Llama:
        return functools.reduce(lambda model, step: step(model), transforms, llama)

    return Transform(tuple(step for item in transforms for step in item.steps), apply)


def from_step(step: Any, arrays: PathLike = ".", sources: Sources | None = None) -> Transform:
    """The transform of one step of a recipe.

    Args:
      step: {"op": ..., "args": {...}}.
      arrays: the folder with the files that steps name by SHA-256.
      sources: the recipe's further models, which steps name by their index.

    Raises:
      InputError: an unknown op, or arguments that the op does not take.
    """
    if not isinstance(step, Mapping) or "op" not in step:
        raise InputError(f'a step of a recipe is {{"op": ..., "args": {{...}}}}, not {step!r}')
    op, args = step["op"], step.get("args", {})
    if op not in _CONSTRUCTORS:
        raise unknown("op", str(op), sorted(_CONSTRUCTORS))
    constructor = _CONSTRUCTORS[op]
    taken = inspect.signature(constructor).parameters
    context = {ARRAYS: arrays, SOURCES: sources}
    try:
        return constructor(**args, **{name: context[name] for name in context if name in taken})
    except (TypeError, ValueError) as error:
        raise InputError(f"the recipe's step {op} is wrong: {error}") from None


def find_source(sources: Sources | None, index: int, op: str) -> Llama:
    """The model that a step names by its index in the recipe's sources.

    Raises:
      InputError: there is none.
    """
    if callable(sources):
        return sources(index)
    if sources is None or index not in sources:
        raise InputError(
            f"{op} needs source {index} of the recipe, which is not there: give sources={{{index}: "
            "llama, ...}, or write it down among the recipe's sources"
        )
    return sources[index]
