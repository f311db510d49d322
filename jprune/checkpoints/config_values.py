"""Values of a config.json, read with errors that name the file and the key."""

import json
from typing import Any

from jprune.core.errors import InputError


def parse_object(text: str, where: str) -> dict[str, Any]:
    """The JSON object in `text`."""
    try:
        values = json.loads(text)
    except ValueError as error:
        raise InputError(f"{where} is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise InputError(f"{where} is not a JSON object")
    return values


def positive(values: dict[str, Any], key: str, default: int, where: str) -> int:
    """A positive integer, or `default` where the key is absent or null."""
    value = values.get(key)
    if value is None:
        return default
    if type(value) is not int or value < 1:
        raise InputError(f"{where}: {key} must be a positive integer, found {value!r}")
    return value


def number(values: dict[str, Any], key: str, default: float, where: str) -> float:
    """A positive number, or `default` where the key is absent or null."""
    value = values.get(key)
    if value is None:
        return default
    if type(value) not in (int, float) or not value > 0:
        raise InputError(f"{where}: {key} must be a positive number, found {value!r}")
    return float(value)


def flag(values: dict[str, Any], key: str, where: str) -> bool:
    """A boolean; absent and null are false."""
    value = values.get(key)
    if value is not None and type(value) is not bool:
        raise InputError(f"{where}: {key} must be true or false, found {value!r}")
    return bool(value)
