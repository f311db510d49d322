"""The user's own functions, by 'module:function'."""

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from jprune.core.errors import InputError


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
