"""Whatever has a name can be typed in any shell, and completed, without quotes."""

import re

import pytest

from jprune.cli import bench, common, configs, main, parsing, score
from jprune.data import SAMPLES
from jprune.evaluate import PROTOCOLS
from jprune.measure import SHAPES
from jprune.report.tables import FORMATS
from jprune.scores import CRITERIA, GRANULARITIES

# Nothing that a shell reads as anything but text, nor that looks like a flag.
NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")


def assert_plain(names):
    names = list(names)
    assert names and not [name for name in names if not NAME.fullmatch(name)]


@pytest.mark.parametrize("command", main.COMMANDS)
def test_commands_and_flags(command):
    flags = parsing._defined(main._module(command))
    assert_plain([command, *parsing._shown(flags)])
    for name in flags:
        assert_plain(getattr(flags[name].parser, "enum_values", None) or [name])


@pytest.mark.parametrize("name", configs.available())
def test_configs_variants_and_keys(name):
    assert_plain([name, *configs.variants(name), *configs._keys(configs.load_config(name))])


@pytest.mark.parametrize(
    "names",
    [
        *(CRITERIA, GRANULARITIES, SAMPLES, PROTOCOLS, SHAPES, FORMATS),
        *(bench.SUITES, common.FORMATS, score.OPTIONS),
    ],
)
def test_values_of_flags(names):
    assert_plain(names)
