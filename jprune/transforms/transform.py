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

# The argument of constructors that read files.
ARRAYS = "arrays"

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

    The decorated function returns a `Transform`, and recipes find it under its name. An argument
    `arrays` is where the files are that other arguments name; no recipe has it.
    """
    signature = inspect.signature(constructor)

    @functools.wraps(constructor)
    def make(*args, **kwargs) -> Transform:
        bound = signature.bind(*args, **kwargs)
        arguments = {name: _plain(value) for name, value in bound.arguments.items()}
        recorded = {name: value for name, value in arguments.items() if name != ARRAYS}
        step = {"op": constructor.__name__, "args": recorded}
        return Transform((step,), constructor(**arguments))

    _CONSTRUCTORS[constructor.__name__] = make
    return make


def _plain(value: Any) -> Any:
    """`value` as JSON would give it back."""
    if hasattr(value, "tolist"):  # NumPy's numbers and arrays
        return value.tolist()
    if isinstance(value, Iterable) and not isinstance(value, str | Mapping):
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


def from_step(step: Any, arrays: PathLike = ".") -> Transform:
    """The transform of one step of a recipe.

    Args:
      step: {"op": ..., "args": {...}}.
      arrays: the folder with the files that steps name by SHA-256.

    Raises:
      InputError: an unknown op, or arguments that the op does not take.
    """
    if not isinstance(step, Mapping) or "op" not in step:
        raise InputError(f'a step of a recipe is {{"op": ..., "args": {{...}}}}, not {step!r}')
    op, args = step["op"], step.get("args", {})
    if op not in _CONSTRUCTORS:
        raise unknown("op", str(op), sorted(_CONSTRUCTORS))
    constructor = _CONSTRUCTORS[op]
    files = {ARRAYS: arrays} if ARRAYS in inspect.signature(constructor).parameters else {}
    try:
        return constructor(**args, **files)
    except (TypeError, ValueError) as error:
        raise InputError(f"the recipe's step {op} is wrong: {error}") from None
