"""The methods of merging by name, what each needs, its options and their ranges."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from jprune.core.errors import InputError, unknown
from jprune.core.plugins import find_function
from jprune.transforms import merge_methods as methods
from jprune.transforms.merge_methods import Mix

_REQUIRED = object()
THEN = ("task_arithmetic", "ties")


@dataclasses.dataclass(frozen=True)
class Option:
    """An option of a method.

    Attributes:
      what: it is, with its range, for people.
      holds: whether a value is in that range.
      default: without one it must be given.
    """

    what: str
    holds: Callable[[Any], bool]
    default: Any = _REQUIRED


@dataclasses.dataclass(frozen=True)
class Method:
    """A way to merge one tensor of several models.

    Attributes:
      name: of `METHODS`, or 'module:function'.
      function: called with t0 or None, the t_i, and the options; see
        `jprune.transforms.merge_methods`.
      needs_base: whether it goes by differences to a base.
      least: how many models it takes at least.
      most: and at most; None for any number.
      options: by name; None for a function of the user's, which takes what it takes.
      mix: for methods linear in the tensors: the coefficients of t0, t_1, ... from the number of
        variants and the options.
      is_seeded: whether it draws random numbers: `seed` is then an option, and the function is
        given a `key`, another one for each tensor.
    """

    name: str
    function: Callable[..., Any]
    needs_base: bool = False
    least: int = 1
    most: int | None = None
    options: Mapping[str, Option] | None = None
    mix: Callable[..., Mix] | None = None
    is_seeded: bool = False

    def check(self, options: Mapping[str, Any], count: int, has_base: bool) -> dict[str, Any]:
        """All options with their values, the defaults among them.

        Args:
          options: those given.
          count: of the models that are merged, the base not counted.
          has_base: whether there is a base.

        Raises:
          InputError: too few or too many models, no base where one is needed, an option that the
            method does not have or needs, or one out of its range.
        """
        self._check_models(count, has_base)
        if self.options is None:
            return dict(options)
        for name in options:
            if name not in self.options:
                if not self.options:
                    raise InputError(f"{self.name} has no options; leave out {name}")
                raise unknown(f"option of {self.name}", name, self.options)
        found = {name: options.get(name, option.default) for name, option in self.options.items()}
        for name, option in self.options.items():
            if found[name] is _REQUIRED:
                raise InputError(f"{self.name} needs {name}: {option.what}")
            if not option.holds(found[name]):
                raise InputError(f"{name} of {self.name} is {found[name]!r}; it is {option.what}")
        self._check_together(found, count)
        return found

    def _check_models(self, count: int, has_base: bool) -> None:
        if self.needs_base and not has_base:
            raise InputError(
                f"{self.name} needs a base: the model that those to be merged were finetuned from"
            )
        if count < self.least or (self.most is not None and count > self.most):
            number = (
                f"exactly {self.least}" if self.most == self.least else f"at least {self.least}"
            )
            models = "model" if self.least == 1 else "models"
            raise InputError(f"{self.name} merges {number} {models}, not {count}")

    def _check_together(self, found: Mapping[str, Any], count: int) -> None:
        weights = found.get("weights")
        if weights is not None and len(weights) != count:
            raise InputError(
                f"weights of {self.name} are {len(weights)} numbers for {count} models; "
                "give one for each"
            )
        if weights is not None and abs(math.fsum(weights)) < 1e-9 * math.fsum(map(abs, weights)):
            raise InputError(f"weights of {self.name} add up to 0, so they have no mean")
        if "gamma" in found and found["density"] + found["gamma"] > 1 + 1e-9:
            raise InputError(
                f"density {found['density']} and gamma {found['gamma']} of {self.name} are more "
                "than all entries together; their sum is at most 1"
            )


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _weights(value: Any) -> bool:
    # None is one that nobody gave: all are equal.
    return value is None or (
        isinstance(value, list | tuple) and all(map(_number, value)) and any(value)
    )


def _seed(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**32


_FACTOR = Option("a number that scales what is added to the base", _number, 1.0)
_DENSITY = Option(
    "the share of each task vector that is kept, in (0, 1]", lambda x: _number(x) and 0 < x <= 1
)
_ALL = (
    Method(
        "linear",
        methods.linear,
        options={"weights": Option("a number for each model, not all 0", _weights, None)},
        mix=methods.linear_mix,
    ),
    Method(
        "slerp",
        methods.slerp,
        least=2,
        most=2,
        options={
            "t": Option(
                "in [0, 1], from the first model to the second",
                lambda x: _number(x) and 0 <= x <= 1,
                0.5,
            )
        },
    ),
    Method(
        "task_arithmetic",
        methods.task_arithmetic,
        needs_base=True,
        options={"factor": _FACTOR},
        mix=methods.task_arithmetic_mix,
    ),
    Method(
        "ties",
        methods.ties,
        needs_base=True,
        options={"density": _DENSITY, "factor": _FACTOR},
    ),
    Method(
        "dare",
        methods.dare,
        needs_base=True,
        options={
            "density": _DENSITY,
            "factor": _FACTOR,
            "then": Option(f"one of {', '.join(THEN)}", lambda x: x in THEN, THEN[0]),
            "seed": Option("an integer from 0 to 2^32 - 1", _seed, 0),
        },
        is_seeded=True,
    ),
    Method(
        "breadcrumbs",
        methods.breadcrumbs,
        needs_base=True,
        options={
            "density": _DENSITY,
            "gamma": Option(
                "the share of outliers that is dropped, in [0, 1)",
                lambda x: _number(x) and 0 <= x < 1,
                0.01,
            ),
            "factor": _FACTOR,
        },
    ),
    Method("model_stock", methods.model_stock, needs_base=True, least=2, options={}),
    Method(
        "passthrough",
        methods.passthrough,
        most=1,
        options={"scale": Option("a number that the tensors are multiplied by", _number, 1.0)},
        mix=methods.passthrough_mix,
    ),
)
METHODS: Mapping[str, Method] = MappingProxyType({method.name: method for method in _ALL})


def find_method(name: str) -> Method:
    """The method of a name.

    Args:
      name: one of `METHODS`, or 'module:function'. Such a function is called for each tensor with
        the base's, or None, a list of the models' and the options, all tensors float32 and as
        Hugging Face stores them ([out, in]); it returns the merged one.

    Raises:
      InputError: there is none.
    """
    if name in METHODS:
        return METHODS[name]
    if ":" not in str(name):
        raise unknown("method", str(name), METHODS)
    return Method(name, find_function(name, "method"))
