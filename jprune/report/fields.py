"""Fields of JSON objects, checked: what is missing or of another kind is said, with its place."""

from collections.abc import Mapping, Sequence
from typing import Any

from jprune.core.errors import InputError

Numbers = tuple[float | None, ...]


def mapping(value: Any) -> Mapping[str, Any]:
    """A JSON object; anything else counts as an empty one."""
    return value if isinstance(value, Mapping) else {}


def mappings(value: Any) -> list[Mapping[str, Any]]:
    """The objects of a JSON list; anything else counts as none."""
    return [v for v in value if isinstance(v, Mapping)] if isinstance(value, list) else []


def optional_numbers(values: Any, source: Any) -> Any:
    """A JSON list of numbers and nulls as floats and None; None stays None."""
    try:
        return None if values is None else tuple(None if v is None else float(v) for v in values)
    except (TypeError, ValueError):
        raise InputError(f"{source}: {values!r:.60} should be a list of numbers") from None


def require(data: Mapping[str, Any], keys: Sequence[str], source: Any) -> None:
    """Raises InputError for the first of `keys` that the object lacks."""
    for key in keys:
        if key not in data:
            raise InputError(f"{source} has no {key!r}")


def number(data: Mapping[str, Any], key: str, source: Any) -> int | float:
    """A number of the object, which must have it."""
    require(data, (key,), source)
    return _number(data[key], f"{source}: {key}")


def integer(data: Mapping[str, Any], key: str, source: Any) -> int:
    """A whole number of the object, which must have it."""
    value = number(data, key, source)
    if value != value // 1:
        raise InputError(f"{source}: {key} should be a whole number, not {data[key]!r:.60}")
    return int(value)


def text(data: Mapping[str, Any], key: str, source: Any) -> str:
    """A string of the object, which must have it."""
    require(data, (key,), source)
    if not isinstance(data[key], str):
        raise InputError(f"{source}: {key} should be a string, not {data[key]!r:.60}")
    return data[key]


def number_list(data: Mapping[str, Any], key: str, source: Any) -> tuple[float, ...]:
    """A list of numbers of the object, which must have it."""
    require(data, (key,), source)
    return tuple(float(_number(x, f"{source}: {key}")) for x in sequence(data, key, source))


def integer_list(data: Mapping[str, Any], key: str, source: Any) -> tuple[int, ...]:
    """A list of whole numbers of the object, which must have it."""
    values = number_list(data, key, source)
    if not all(value.is_integer() for value in values):
        raise InputError(f"{source}: {key} should hold whole numbers, not {data[key]!r:.60}")
    return tuple(int(value) for value in values)


def number_map(data: Mapping[str, Any], key: str, source: Any) -> dict[str, float]:
    """An object of numbers inside the object, which must have it."""
    inner = inner_object(data, key, source)
    return {name: float(number(inner, name, f"{source}: {key}")) for name in inner}


def inner_object(data: Mapping[str, Any], key: str, source: Any) -> Mapping[str, Any]:
    """An object inside the object, which must have it."""
    require(data, (key,), source)
    if not isinstance(data[key], Mapping):
        raise InputError(f"{source}: {key} should be a JSON object, not {data[key]!r:.60}")
    return data[key]


def sequence(data: Mapping[str, Any], key: str, source: Any) -> list[Any]:
    """A list of the object, which must have it."""
    require(data, (key,), source)
    if not isinstance(data[key], list):
        raise InputError(f"{source}: {key} should be a list, not {data[key]!r:.60}")
    return data[key]


def same_length(lists: Mapping[str, Sequence[Any]], source: Any) -> None:
    """Raises InputError where the lists differ in length from the first."""
    first, *others = lists
    for name in others:
        if len(lists[name]) != len(lists[first]):
            raise InputError(f"{source}: {len(lists[name])} {name} for {len(lists[first])} {first}")


def _number(value: Any, source: Any) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{source} should be a number, not {value!r:.60}")
    return value
