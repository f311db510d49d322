"""The model card (README.md) of a pretrained model."""

import json
from collections.abc import Mapping
from typing import Any

from jprune.checkpoints.model_card import protocol_words
from jprune.pipeline.pretrain_config import PretrainConfig


def pretrain_card(config: PretrainConfig, parameters: int, values: Mapping[str, Any]) -> str:
    """What the model is, what it was trained on and how, what it reaches, how to load it.

    Args:
      config: of the run.
      parameters: how many the model has.
      values: what the stages "windows", "train" and "evaluate" returned.
    """
    sizes, settings, name = config.architecture, config.train, config.name
    trained, text = values["train"], values["windows"]["train"]
    optimizer = settings.optimizer
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags:\n- llama\n- jprune",
        "---",
        f"\n# {name}\n",
        f"A Llama of {sizes.num_hidden_layers} layers and {parameters:,} parameters with a "
        f"byte-level BPE tokenizer of {config.vocab_size:,} tokens and a context of "
        f"{sizes.max_position_embeddings}, trained from scratch with `jprune`.\n",
        "## Training\n",
        f"Text: `{config.data}` ({text['tokens']:,} tokens in {text['windows']:,} windows). "
        f"{trained['steps']:,} steps of {settings.batch_size} windows, {trained['tokens']:,} "
        f"tokens predicted in all; AdamW with a peak rate of {optimizer.learning_rate:g}, "
        f"{optimizer.warmup_steps} warm-up steps, weight decay {optimizer.weight_decay:g}, seed "
        f"{config.seed}. Loss per token over the last steps {trained['loss']:.3f}, on held-out "
        f"text {trained['validation_nll']:.3f} (windows of {sizes.max_position_embeddings}).\n",
        "## Perplexity\n",
        "| data | perplexity | tokens | protocol |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {row['data']} | {row['ppl']:.4g} | {row['tokens']:,} | "
        f"{json.dumps(protocol_words(row['protocol'])).strip(chr(34))} |"
        for row in values["evaluate"]
    ]
    lines += [
        "\n## Loading it\n",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n",
        f'model = AutoModelForCausalLM.from_pretrained("{name}")',
        f'tokenizer = AutoTokenizer.from_pretrained("{name}")',
        "```\n",
        f'In JAX: `import jprune; llama = jprune.load("{name}")`.',
    ]
    return "\n".join(lines) + "\n"
