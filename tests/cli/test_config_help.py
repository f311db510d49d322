"""`jprune run --help`: the configs, and the keys of one."""

import dataclasses
import re

import pytest

from jprune.cli import config_help, configs
from jprune.pipeline.depth_config import DepthConfig
from jprune.pipeline.finetune_config import FinetuneConfig
from jprune.pipeline.groups import LoraConfig
from jprune.pipeline.job import JOBS
from jprune.pipeline.pruning_config import PruningConfig
from jprune.pipeline.sparse_config import SparseConfig


def test_lists_configs_and_variants(jprune):
    status, out, _ = jprune("run", "--help")
    assert status == 0 and "--dry_run" in out
    assert "  shortened_llama: Depth pruning: remove the blocks that matter least" in out
    assert "      variants: ppl, taylor, magnitude, influence, angular, greedy, ppl_lora, " in out
    assert "  demo: Depth pruning on the bundled model" in out


def test_shows_the_keys_of_a_config(jprune):
    status, out, _ = jprune("run", "--config=shortened_llama:taylor", "--help")
    assert status == 0 and "variants, after a colon: ppl, taylor" in out
    assert "  --config.remove=6  (integer)\n      how many units go.\n" in out
    assert "  --config.eval=wikitext2,ptb  (A,B)\n" in out
    assert "  --config.dtype=null  (text)\n" in out
    assert "  --config.options.power=1.0  (number)\n" in out
    assert "config.job" not in out


def test_shows_groups(jprune):
    _, out, _ = jprune("run", "--config=demo_pretrain", "--help")
    assert "  --config.train.batch_size=16  (integer)\n      windows per step.\n" in out
    assert "  --config.train.learning_rate=0.002  (number)\n      at the peak.\n" in out
    _, out, _ = jprune("run", "--config=finetune", "--help")
    assert "  --config.lora.rank=8  (integer)\n      of the update of a kernel.\n" in out
    assert "  --config.lora.targets=q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_" in out


@pytest.mark.parametrize("words", [["--config", "demo"], ["-config=demo"], ["-config", "demo"]])
def test_every_way_to_name_a_config(jprune, words):
    expected = jprune("run", "--config=demo", "--help")
    assert expected[1].startswith("Depth pruning on the bundled model")
    assert jprune("run", *words, "--help") == jprune("run", "--help", *words) == expected


def test_without_the_name_of_a_config_the_help_is_general(jprune):
    general = jprune("run", "--help")
    assert jprune("run", "--config", "--help") == general
    assert jprune("run", "--workdir", "W", "--help") == general


@pytest.mark.parametrize("name", configs.available())
def test_what_is_shown_may_be_typed(jprune, name):
    """Every line --config.KEY=VALUE sets the key to what it is."""
    _, out, _ = jprune("run", f"--config={name}", "--help")
    shown = re.findall(r"^  --config\.(\S+?)=(.*)  \(", out, re.MULTILINE)
    assert len(shown) > 10
    assert configs.load_config(name, dict(shown)) == configs.load_config(name)


def test_a_config_that_is_not_there(refused):
    message = refused("run", "--config=shortned_llama", "--help")
    assert "did you mean 'shortened_llama'" in message
    assert "did you mean 'taylor'" in refused("run", "--config=shortened_llama:tailor", "--help")


def test_every_key_has_a_meaning():
    for kind in (DepthConfig, SparseConfig):
        docs = config_help.attribute_docs(PruningConfig) | config_help.attribute_docs(kind)
        assert set(docs) == {field.name for field in dataclasses.fields(kind)}
        assert all(docs.values())
    for kind in (FinetuneConfig, LoraConfig):
        docs = config_help.attribute_docs(kind)
        assert set(docs) == {field.name for field in dataclasses.fields(kind)}
        assert all(docs.values())
    assert set(config_help.KEYS) == set(JOBS)


@pytest.mark.parametrize("name", configs.available())
def test_every_declared_variant_is_there(name):
    for variant in configs.variants(name):
        configs.load_config(f"{name}:{variant}")
