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


def count(values: dict[str, Any], key: str, default: int, where: str) -> int:
    """An integer from 0 on, or `default` where the key is absent or null."""
    value = values.get(key)
    if value is None:
        return default
    if type(value) is not int or value < 0:
        raise InputError(f"{where}: {key} must be an integer from 0 on, found {value!r}")
    return value


def number(values: dict[str, Any], key: str, default: float, where: str) -> float:
    """A positive number, or `default` where the key is absent or null."""
    value = values.get(key)
    if value is None:
        return default
    if type(value) not in (int, float) or not value > 0:
        raise InputError(f"{where}: {key} must be a positive number, found {value!r}")
    return float(value)


def string(values: dict[str, Any], key: str, default: str, where: str) -> str:
    """A string, or `default` where the key is absent or null."""
    value = values.get(key)
    if value is None:
        return default
    if not isinstance(value, str):
        raise InputError(f"{where}: {key} must be a string, found {value!r}")
    return value


def strings(values: dict[str, Any], key: str, where: str) -> list[str]:
    """A list of strings; absent and null are the empty one."""
    value = values.get(key)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InputError(f"{where}: {key} must be a list of strings, found {value!r}")
    return value


def mapping(values: dict[str, Any], key: str, where: str) -> dict[str, Any]:
    """An object; absent and null are the empty one."""
    value = values.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InputError(f"{where}: {key} must be an object, found {value!r}")
    return value


def token(values: dict[str, Any], key: str, where: str) -> int | None:
    """The id of a token; None where the key is absent or null."""
    value = values.get(key)
    if value is not None and type(value) is not int:
        raise InputError(f"{where}: {key} must be an integer or null, found {value!r}")
    return value


def tokens(values: dict[str, Any], key: str, where: str) -> int | tuple[int, ...] | None:
    """The id of a token, or those of several; None where the key is absent or null."""
    value = values.get(key)
    if not isinstance(value, list):
        return token(values, key, where)
    if not all(type(item) is int for item in value):
        raise InputError(f"{where}: {key} must be a list of integers, found {value!r}")
    return tuple(value)


def flag(values: dict[str, Any], key: str, where: str) -> bool:
    """A boolean; absent and null are false."""
    value = values.get(key)
    if value is not None and type(value) is not bool:
        raise InputError(f"{where}: {key} must be true or false, found {value!r}")
    return bool(value)
