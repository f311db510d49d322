"""Instruction data: the Alpaca prompt template (github.com/tatsu-lab/stanford_alpaca)."""

from collections.abc import Mapping

_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further "
    "context. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n"
)
_WITHOUT_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:\n"
)


def is_instruction(fields: Mapping[str, object] | list[str]) -> bool:
    """Whether rows with these fields are instructions with answers."""
    return "instruction" in fields and "output" in fields


def alpaca_prompt(instruction: str, input: str = "") -> str:
    """The prompt for an instruction, with its input where there is one; the answer follows it."""
    template = _WITH_INPUT if input.strip() else _WITHOUT_INPUT
    return template.format(instruction=instruction, input=input)


def alpaca_document(row: Mapping[str, str]) -> str:
    """Prompt and answer of a row with `instruction`, `output` and perhaps `input`, as one text."""
    return alpaca_prompt(row["instruction"], row.get("input") or "") + row["output"]
