import pytest

from jprune.cli import configs, flag
from jprune.cli.parsing import parse
from jprune.core.errors import InputError

CONFIG = '''
"""A config."""
from ml_collections import ConfigDict, config_dict
from jprune.core.errors import unknown

def get_config(arg="ppl"):
    if arg not in ("ppl", "taylor"):
        raise unknown("variant", arg, ("ppl", "taylor"))
    return ConfigDict({
        "criterion": arg, "remove": 4, "alpha": 0.15, "plus": False, "eval_windows": 256,
        "eval": ("wikitext2",), "model": "m", "mesh": None, "dtype": None,
        "data_dir": config_dict.placeholder(str), "lora": {"rank": 8, "lr": 1e-4}, "sizes": (1, 2),
        "options": {},
    })
'''


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder of configs in place of those of jprune."""
    (tmp_path / "shortened.py").write_text(CONFIG)
    (tmp_path / "_helper.py").write_text("")
    (tmp_path / "plain.py").write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config():\n    return ConfigDict({'a': 1})\n"
    )
    monkeypatch.setattr(configs, "folder", lambda: tmp_path)
    return tmp_path


def test_by_name_variant_and_path(folder):
    assert configs.available() == ["plain", "shortened"]
    assert configs.load_config("shortened").criterion == "ppl"
    assert configs.load_config("shortened:taylor").criterion == "taylor"
    assert configs.load_config(f"{folder}/shortened.py:taylor").criterion == "taylor"
    assert configs.load_config("plain").a == 1


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("remove", "6", 6),
        ("alpha", "1e-3", 0.001),
        ("alpha", "2", 2.0),
        ("plus", "true", True),
        ("plus", "0", False),
        ("eval_windows", "null", None),
        ("eval", "ptb,c4", ("ptb", "c4")),
        ("eval", "('a,b',)", ("a,b",)),
        ("eval", "ptb", ("ptb",)),
        ("sizes", "3,4,5", (3, 4, 5)),
        ("model", "none", "none"),
        ("model", "dir=a", "dir=a"),
        ("mesh", "data:2", "data:2"),
        ("mesh", "null", None),
        ("data_dir", "null", None),
        ("data_dir", "None", None),
        ("dtype", "float32", "float32"),
        ("data_dir", "/d", "/d"),
        ("lora.rank", "16", 16),
    ],
)
def test_override(key, text, value):
    config = configs.load_config("shortened", {key: text})
    found = config
    for part in key.split("."):
        found = found[part]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("remve", "4", "unknown config key 'remve'; did you mean 'remove'?"),
        ("lora.rnk", "4", "unknown config key 'lora.rnk'; did you mean 'lora.rank'?"),
        ("remove.x", "4", "unknown config key 'remove.x'; did you mean 'remove'?"),
        ("remove", "four", "config key 'remove' takes an integer, not 'four'"),
        ("remove", "4.5", "config key 'remove' takes an integer, not '4.5'"),
        ("alpha", "x", "config key 'alpha' takes a number, not 'x'"),
        ("plus", "maybe", "config key 'plus' takes true or false, not 'maybe'"),
        ("sizes", "3,x", "config key 'sizes' takes a tuple, not '3,x'"),
        ("options", "8", "config key 'options' is a group; and here it has no keys"),
        ("lora", "8", "config key 'lora' is a group; set one of lora.lr, lora.rank"),
    ],
)
def test_bad_override(key, text, message):
    with pytest.raises(InputError) as error:
        configs.load_config("shortened", {key: text})
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("shortned", "unknown config 'shortned'; did you mean 'shortened'?"),
        ("shortened:tayler", "unknown variant 'tayler'; did you mean 'taylor'?"),
        ("plain:x", "config plain has no variants"),
        ("./absent.py", "no such config file: absent.py"),
    ],
)
def test_unknown_configs(name, message):
    with pytest.raises(InputError) as error:
        configs.load_config(name)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("def get_config(:", "cannot read config .*bad.py: SyntaxError"),
        ("import absent_module", "cannot read config .*: ModuleNotFoundError: No module"),
        ("x = 1", "defines no get_config"),
        ("def get_config():\n    return {}['a']", "bad.py failed: KeyError: 'a'"),
        ("def get_config():\n    return 3", "must give a ml_collections.ConfigDict"),
    ],
)
def test_broken_configs(folder, content, message):
    (folder / "bad.py").write_text(content)
    with pytest.raises(InputError, match=message):
        configs.load_config("bad")


class Command:
    """Has configs."""

    @staticmethod
    def define(flags):
        configs.define(flags)
        flag.text(flags, "workdir", None, "folder")


def test_flags():
    argv = ["--config=shortened:taylor", "--config.remove=6", "--workdir=W"]
    flags = parse("run", Command, [*argv, "--config.lora.rank", "4", "--config.remove=7"])
    config = configs.load(flags)
    assert (config.criterion, config.remove, config.lora.rank) == ("taylor", 7, 4)
    assert flags.workdir == "W"
    with pytest.raises(InputError, match=r"give --config=NAME \(one of plain, shortened\)"):
        configs.load(parse("run", Command, []))
    with pytest.raises(InputError, match="--config.remove needs a value"):
        parse("run", Command, ["--config=shortened", "--config.remove"])
    with pytest.raises(InputError, match="unknown flag --confg of jprune run; did you mean --con"):
        parse("run", Command, ["--confg=x"])


def test_help_hides_the_internal_flag():
    from jprune.cli.parsing import help_text

    text = help_text("run", Command)
    assert "--config=" in text and "(configs: plain, shortened)" in text
    assert configs.OVERRIDES not in text
