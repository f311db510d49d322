"""The model card (README.md) of an adapter."""

import json
from collections.abc import Mapping
from typing import Any

from jprune.checkpoints.model_card import protocol_words
from jprune.pipeline.finetune_config import FinetuneConfig


def finetune_card(
    name: str, base: str, config: FinetuneConfig, parameters: int, values: Mapping[str, Any]
) -> str:
    """What the adapter is, what it was trained on and how, what it reaches, how to load it.

    Args:
      name: of the adapter.
      base: what adapter_config.json calls the base.
      config: of the run.
      parameters: how many the adapter has.
      values: what the stages "windows", "train", "evaluate-before" and "evaluate-after" returned.
    """
    lora, settings = config.lora, config.train
    trained, text = values["train"], values["windows"]["train"]
    optimizer = settings.optimizer
    lines = [
        "---",
        "library_name: peft",
        f"base_model: {json.dumps(base)}",
        "tags:\n- lora\n- llama\n- jprune",
        "---",
        f"\n# {name}\n",
        f"A LoRA adapter of rank {lora.rank} (alpha {lora.alpha:g}, {parameters:,} parameters) on "
        f"{', '.join(lora.targets)} of `{base}`, trained with `jprune`.\n",
        "## Training\n",
        f"Text: `{config.data}` ({text['tokens']:,} tokens in {text['windows']:,} windows). "
        f"{trained['steps']:,} steps of {settings.batch_size} windows, {trained['tokens']:,} "
        f"tokens predicted in all; AdamW with a peak rate of {optimizer.learning_rate:g}, "
        f"{optimizer.warmup_steps} warm-up steps, weight decay {optimizer.weight_decay:g}, "
        f"dropout {lora.dropout:g}, seed {config.seed}. Loss per token over the last steps "
        f"{trained['loss']:.3f}, on held-out text {trained['validation_nll']:.3f}.\n",
        "## Perplexity\n",
        "| data | base | with the adapter | tokens | protocol |",
        "|---|---|---|---|---|",
    ]
    rows = zip(values["evaluate-before"], values["evaluate-after"], strict=True)
    lines += [
        f"| {after['data']} | {before['ppl']:.4g} | {after['ppl']:.4g} | {after['tokens']:,} | "
        f"{json.dumps(protocol_words(after['protocol'])).strip(chr(34))} |"
        for before, after in rows
    ]
    lines += [
        "\n## Loading it\n",
        "```python",
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM\n",
        f"base = AutoModelForCausalLM.from_pretrained({json.dumps(base)})",
        f"model = PeftModel.from_pretrained(base, {json.dumps(name)})",
        "```\n",
        f"In JAX: `import jprune; llama = jprune.load({json.dumps(name)})` (with its base).",
    ]
    return "\n".join(lines) + "\n"
