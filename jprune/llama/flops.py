"""Model FLOPs of a forward pass, from the shapes of the arrays that take part."""

from jprune.llama.kernels import Kernel, kernel_shape
from jprune.llama.model import Block, Linear, Llama, Run


def kernel_params(kernel: Kernel) -> int:
    """Multiplications per token of x W, an adapter counted as folded."""
    rows, columns = kernel_shape(kernel)[-2:]
    return rows * columns


def block_flops(block: Block, length: int, sliding_window: int | None = None) -> int:
    """FLOPs per token of one block in windows of `length` tokens.

    2 per weight of each linear, plus 4 * seen * width of the queries for the two products of causal
    attention. A position sees min(i, w) others in a sliding window of w, all i before it without
    one: on average seen = w (length - (w - 1) / 2) / length, which is (length + 1) / 2 for
    w = length.
    """
    total = 0
    if block.attn is not None:
        attn = block.attn
        total += 2 * sum(kernel_params(part.kernel) for part in (attn.q, attn.k, attn.v, attn.o))
        window = min(length, sliding_window or length)
        queries = kernel_shape(attn.q.kernel)[-1]
        total += 2 * window * (2 * length - window + 1) * queries // length
    if block.mlp is not None:
        mlp = block.mlp
        total += 2 * sum(kernel_params(part.kernel) for part in (mlp.gate, mlp.up, mlp.down))
    return total


def head_flops(llama: Llama) -> int:
    """FLOPs per token of the head."""
    head: Linear | None = llama.lm_head
    return 2 * (llama.embed.size if head is None else kernel_params(head.kernel))


def forward_flops(llama: Llama, tokens: int, length: int) -> int:
    """FLOPs of a forward pass over `tokens` tokens in windows of `length`, head included."""
    per_token = head_flops(llama)
    for part in llama.blocks:
        block, count = (part.block, len(part)) if isinstance(part, Run) else (part, 1)
        per_token += count * block_flops(block, length, llama.config.sliding_window)
    return tokens * per_token
