"""Paths as people write them."""

import pytest

from jprune.core import InputError
from jprune.core.paths import as_path


@pytest.mark.parametrize("text", ["gs:/bucket/folder", "gs:bucket"])
def test_an_address_with_a_slash_too_few(text):
    with pytest.raises(
        InputError, match=f"{text} is no place; an address on an object store is gs"
    ):
        as_path(text)


def test_names_that_only_begin_alike_are_local():
    assert as_path("gs/x").name == "x"
