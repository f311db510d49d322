import flax.struct
import pytest

from jprune.core import map_named, matches, named_leaves, select


@flax.struct.dataclass
class Layer:
    kernel: int
    bias: int | None


TREE = {"layers": (Layer(1, None), Layer(2, 3)), "norm": 4}
NAMES = ["layers.0.kernel", "layers.1.kernel", "layers.1.bias", "norm"]


def test_named_leaves_go_through_dicts_tuples_and_dataclasses():
    assert named_leaves(TREE) == dict(zip(NAMES, [1, 2, 3, 4], strict=True))


def test_map_named():
    named = map_named(lambda name, leaf: (name, leaf * 10), TREE)
    assert named["layers"][1].bias == ("layers.1.bias", 30)
    assert named["layers"][0].bias is None


@pytest.mark.parametrize(
    ("pattern", "name", "expected"),
    [
        ("norm", "norm", True),
        ("norm", "norm.weight", False),
        ("layers.*.kernel", "layers.12.kernel", True),
        ("layers.*", "layers.1.kernel", False),
        ("layers.**", "layers.1.kernel", True),
        ("**.kernel", "kernel", True),
        ("**.kernel", "layers.1.mlp.up_proj.kernel", True),
        ("**.kernel", "layers.1.kernel.a", False),
        ("layers.**.kernel", "layers.kernel", True),
        ("layers.[01].*", "layers.2.kernel", False),
        ("layers.?.*", "layers.2.kernel", True),
        ("layers.?.*", "layers.12.kernel", False),
        ("*_proj", "q_proj", True),
        ("a.b", "axb", False),
    ],
)
def test_patterns(pattern, name, expected):
    assert matches(pattern, name) is expected


def test_several_patterns():
    assert matches(["norm", "**.bias"], "layers.1.bias")
    assert select(["norm", "**.bias"], TREE) == {"layers.1.bias": 3, "norm": 4}
