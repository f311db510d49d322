"""The suite `generate`: new tokens after short prompts, at several batch sizes."""

from collections.abc import Sequence
from functools import cache

import numpy as np

from jprune.llama import DecodeLayout, Llama, decode_layout, forward_flops, generate
from jprune.llama.flops import head_flops
from jprune.llama.model import count_bytes
from jprune.measure.timing import Job

# What Shortened LLaMA measures (arXiv 2402.02834, section 4.3), at three batch sizes.
BATCHES = (1, 16, 64)
PROMPT_LENGTH = 12
NEW_TOKENS = 128


def generate_jobs(
    llama: Llama,
    batches: Sequence[int] = BATCHES,
    prompt_length: int = PROMPT_LENGTH,
    new_tokens: int = NEW_TOKENS,
    seed: int = 0,
) -> list[Job]:
    """Greedy generation from random prompts; no token ends a text.

    A job's limit is the time in which the weights are read once for every new token, or its FLOPs
    if that is longer. The layout in which the model decodes is made once, before the first job.

    Args:
      llama: the model.
      batches: how many prompts at a time, a job for each.
      prompt_length: tokens of a prompt.
      new_tokens: after each.
      seed: of the prompts.
    """
    rng = np.random.default_rng(seed)
    vocab = llama.config.vocab_size
    layout = cache(lambda: decode_layout(llama))

    def job(batch: int) -> Job:
        prompts = rng.integers(0, vocab, (batch, prompt_length)).tolist()
        return Job(
            f"{new_tokens} tokens after {prompt_length}, batch {batch}",
            lambda: _run(layout(), prompts, new_tokens),
            batch * _flops(llama, prompt_length, new_tokens),
            read_bytes=new_tokens * (count_bytes(llama) - _unread(llama)),
            figures=lambda one, _: {"tokens_per_second": batch * new_tokens / one.seconds},
        )

    return [job(batch) for batch in batches]


def _run(layout: DecodeLayout, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
    return generate(layout, prompts, new_tokens, stop=(), batch_size=len(prompts))


def _flops(llama: Llama, prompt_length: int, new_tokens: int) -> int:
    """FLOPs of one row: all tokens but the last run through the model, the head for new ones."""
    length = prompt_length + new_tokens - 1
    return forward_flops(llama, length, length) - (prompt_length - 1) * head_flops(llama)


def _unread(llama: Llama) -> int:
    """Bytes of the embeddings, of which a step reads single rows, unless they are the head too."""
    return 0 if llama.lm_head is None else count_bytes(llama.embed)
