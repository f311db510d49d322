import jax
import jax.numpy as jnp
import pytest

from jprune.checkpoints.model_card import describe_step, model_card, protocol_words, ranges
from jprune.llama.config import LlamaConfig
from jprune.llama.params import abstract

PROTOCOL = {
    "data": "wikitext2",
    "split": "test",
    "join": "\n\n",
    "window_length": 128,
    "num_windows": 256,
    "bos": "first",
    "dtype": "float32",
    "tokens": 32512,
    "normaliser": "token",
}
FIGURES = [
    {"label": "before", "perplexity": [{"data": "wikitext2", "ppl": 20.0, "tokens": 32512}]},
    {
        "label": "after",
        "perplexity": [
            {"data": "wikitext2", "ppl": 23.456789, "tokens": 32512, "protocol": PROTOCOL}
        ],
        "tasks": [{"task": "piqa", "metric": "acc", "value": 0.61, "stderr": 0.012, "n": 100}],
    },
]


@pytest.fixture
def llama():
    config = LlamaConfig(10, 8, 12, 2, 2, 4)
    model = abstract(config, 4, jnp.float32, source="base-7b")
    return model.replace(blocks=(model.blocks[0], model.blocks[1], model.blocks[3]))


def test_front_matter_is_what_the_hub_reads(llama):
    import yaml

    card = model_card("small", llama)
    _, front, body = card.split("---\n", 2)
    assert yaml.safe_load(front) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "base_model": ["base-7b"],
        "tags": ["llama", "pruned", "jprune"],
    }
    assert body.lstrip().startswith("# small\n")


def test_says_what_is_left_of_what(llama):
    card = model_card("small", llama)
    params = sum(leaf.size for leaf in jax.tree.leaves(llama))
    assert f"3 layers, {params:,} parameters" in card
    assert "layers 0-1, 3 of the original" in card
    assert 'AutoModelForCausalLM.from_pretrained("small"' in card


def test_sources_of_the_recipe_come_first(llama):
    recipe = {
        "sources": [{"name": "org/a"}, {"name": "org/b"}],
        "steps": [
            {"op": "drop_blocks", "args": {"blocks": [3, 1, 2]}},
            {"op": "scale", "args": {"by": 2}},
        ],
    }
    card = model_card("small", llama, recipe=recipe)
    assert 'base_model:\n- "org/a"\n- "org/b"' in card
    assert "1. removes blocks 1-3\n2. scale" in card


def test_figures_carry_their_protocol(llama):
    card = model_card("small", llama, figures=FIGURES)
    assert "| before | wikitext2 | 20 | 32,512 |  |" in card
    assert (
        "| after | wikitext2 | 23.46 | 32,512 | test split, windows of 128, 256 windows, "
        r"joined by '\n\n', BOS first, float32, per token |" in card
    )
    assert "| after | piqa | acc | 0.61 | 0.012 | 100 |" in card


def test_sections_without_content_are_left_out(llama):
    card = model_card("small", llama)
    assert "##" in card and "## How" not in card and "## Perpl" not in card
    assert "## Removed" not in card and "## Tasks" not in card
    assert "- mlp of layer 1" in model_card("small", llama, notes=["mlp of layer 1"])


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"op": "drop_blocks", "args": {"blocks": [5]}}, "removes blocks 5"),
        (
            {"op": "drop_sublayers", "args": {"attention": [1, 2], "mlp": [7]}},
            "removes the attention of blocks 1-2 and the feed-forward network of blocks 7",
        ),
        (
            {"op": "drop_sublayers", "args": {"mlp": [7], "attention": []}},
            "removes the feed-forward network of blocks 7",
        ),
        ({"op": "merge", "args": {"method": "ties"}}, 'merge {"method": "ties"}'),
        (
            {"op": "merge", "args": {"method": "ties", "models": [1, 2, 3], "density": 0.2}},
            "merges sources 1-3 on it as the base by ties (density 0.2)",
        ),
        (
            {"op": "merge", "args": {"method": "slerp", "models": [0, 2]}},
            "merges it with source 2 by slerp",
        ),
        (
            {"op": "merge", "args": {"method": None, "models": [1], "layers": [], "ends": "base"}},
            'merges source 1 on it as the base by several methods (layers [], ends "base")',
        ),
        (
            {"op": "stitch", "args": {"plan": {"layers": [{"layer": 0}, {"layer": 2}]}}},
            "stitches 2 layers together from the model and its variants",
        ),
        (
            {"op": "stitch", "args": {"plan": [{"layer": 1}]}},
            "stitches 1 layer together from the model and its variants",
        ),
        (
            {"op": "narrow", "args": {"heads": [[0, 1], None, [3]], "neurons": [[0], [5], [9]]}},
            "keeps 1 to 2 key-value heads and 1 neurons of narrowed blocks",
        ),
        (
            {"op": "narrow", "args": {"neurons": [list(range(9)), None]}},
            "keeps 9 neurons of narrowed blocks",
        ),
        ({"op": "narrow", "args": {"heads": [None]}}, 'narrow {"heads": [null]}'),
        ({"op": "noop"}, "noop"),
    ],
)
def test_steps_in_words(step, words):
    assert describe_step(step) == words


def test_ranges():
    assert ranges([4, 0, 1, 2, 9, 10, 4]) == "0-2, 4, 9-10"
    assert ranges([]) == ""


def test_absent_parts_of_a_protocol_are_not_mentioned():
    assert protocol_words({"window_length": 64, "bos": None}) == "windows of 64"


def test_a_cell_cannot_break_its_table(llama):
    figures = [{"perplexity": [{"data": "a|b\nc", "ppl": 1.0}]}]
    assert r"| a\|b c | 1 |" in model_card("small", llama, figures=figures)


def test_says_how_sparse_it_is_and_what_that_saves(llama):
    recipe = {"steps": [{"op": "sparse_weights", "args": {"blocks": ["ab" * 32] * 3}}]}
    card = model_card("small", llama, recipe=recipe, sparsity=["70% are zero.", "They stay."])
    assert "1. sets the pruned weights of 3 blocks to zero\n" in card and "abab" not in card
    assert "\n\n## Sparsity\n\n70% are zero.\n\nThey stay.\n\n" in card
    assert "## Sparsity" not in model_card("small", llama)
