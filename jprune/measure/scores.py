"""The suite `scores`: scoring all blocks, and perplexity."""

from functools import partial

import numpy as np

from jprune.evaluate import perplexity
from jprune.llama import Llama, forward_flops
from jprune.llama.flops import block_flops, head_flops
from jprune.llama.model import Run
from jprune.measure.timing import Job
from jprune.scores import score

# The papers' calibration set, and what the sparsity papers evaluate.
CALIBRATION = (10, 128)
EVALUATION = (64, 2048)


def score_jobs(
    llama: Llama,
    calibration: tuple[int, int] = CALIBRATION,
    evaluation: tuple[int, int] = EVALUATION,
    seed: int = 0,
) -> list[Job]:
    """Leave-one-out perplexity, Taylor scores and perplexity, on random tokens.

    Args:
      llama: the model.
      calibration: windows and tokens per window that the scores read.
      evaluation: windows and tokens per window of the perplexity.
      seed: of the tokens.
    """
    rng = np.random.default_rng(seed)
    vocab = llama.config.vocab_size
    few, many = (
        rng.integers(0, vocab, shape).astype(np.int32) for shape in (calibration, evaluation)
    )
    forward = partial(forward_flops, llama)
    return [
        Job(
            f"leave-one-out perplexity, {_size(few)}",
            lambda: score(llama, "perplexity", few).scores,
            leave_one_out_flops(llama, few.size, few.shape[1]),
        ),
        Job(
            f"Taylor scores, {_size(few)}",
            lambda: score(llama, "taylor", few).scores,
            3 * forward(few.size, few.shape[1]),
        ),
        Job(
            f"perplexity, {_size(many)}",
            lambda: perplexity(llama, many).nll,
            forward(many.size, many.shape[1]),
        ),
    ]


def leave_one_out_flops(llama: Llama, tokens: int, length: int) -> int:
    """FLOPs of the loss of the full model and without each block, shared prefixes run once.

    Without block i, only the blocks after i differ from the full model's: block l runs for the full
    model and for the l candidates that lack an earlier one.
    """
    per_block = [
        block_flops(
            part.block if isinstance(part, Run) else part, length, llama.config.sliding_window
        )
        for part in llama.blocks
        for _ in range(len(part) if isinstance(part, Run) else 1)
    ]
    blocks = sum((1 + index) * flops for index, flops in enumerate(per_block))
    return tokens * (blocks + (1 + len(per_block)) * head_flops(llama))


def _size(ids: np.ndarray) -> str:
    return f"{ids.shape[0]} x {ids.shape[1]}"
