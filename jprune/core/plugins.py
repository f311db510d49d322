"""The user's own functions, by 'module:function'."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

from jprune.core.errors import InputError
from jprune.core.files import sha256_file


def find_function(name: str, what: str) -> Callable[..., Any]:
    """The function of 'module:function'; modules in the current folder count.

    Args:
      name: what the user wrote.
      what: the function is for, for messages: 'criterion'.

    Raises:
      InputError: it cannot be imported, or is no function.
    """
    module, _, function_name = name.partition(":")
    # A module in the current folder is found by `python -m jprune` but not by `jprune`.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        function = getattr(importlib.import_module(module), function_name, None)
    except (ImportError, SyntaxError, ValueError) as error:
        raise InputError(f"cannot import the {what} {name!r}: {error}") from None
    if not callable(function):
        raise InputError(f"the module {module} has no function {function_name}")
    return function


def code_of(name: str, what: str) -> dict[str, list[str]]:
    """{"code": SHA-256 of the files that hold such a function}: it changes when they are edited.

    These are the module that the name gives and, if it only passes the function on, the one that
    defines it. What they import in turn does not count.

    Raises: as `find_function`.
    """
    function = inspect.unwrap(find_function(name, what))
    names = (name.partition(":")[0], getattr(function, "__module__", None))
    files = {getattr(sys.modules.get(module or ""), "__file__", None) for module in names}
    return {"code": [sha256_file(file) for file in sorted(filter(None, files))]}
