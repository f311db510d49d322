"""Values that several stages share and that are made only if one of them asks."""

from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Lazy(Generic[T]):
    """A value that is made when it is first asked for, and then kept.

    Stages share the model and its tokenizer this way; a job that is all cached never loads them.
    `clear` gives a value up that is not needed for now: it is made again when asked for again.
    """

    def __init__(self, make: Callable[[], T]):
        self._make = make
        self._value: list[T] = []

    def __call__(self) -> T:
        """The value."""
        if not self._value:
            self._value.append(self._make())
        return self._value[0]

    @property
    def is_made(self) -> bool:
        """Whether the value is at hand."""
        return bool(self._value)

    def clear(self) -> None:
        """Forgets the value, so that its memory can be freed."""
        self._value.clear()
